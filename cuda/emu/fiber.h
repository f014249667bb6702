// Fibers: the threads of an emulated block. A fiber is a stack and a place to continue; switching
// costs some 40 ns, against half a microsecond for swapcontext, which saves the signal mask.
#pragma once

#include <cstddef>
#include <functional>

namespace facet::emu {

class Fiber {
 public:
  static constexpr size_t kStackBytes = size_t{64} << 10;  // below it lies a guard page

  // The thread that calls this, so that fibers can switch back to it.
  Fiber();
  // A fiber that runs body() when it is first switched to. body never returns: its last act is to
  // switch away.
  explicit Fiber(std::function<void()> body);
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Leaves `from`, which is running, and continues `to`.
  static void switch_to(Fiber& from, Fiber& to);

 private:
  static void enter();

  std::function<void()> body_;
  void* stack_pointer_ = nullptr;
  void* mapping_ = nullptr;             // guard page and stack
  const void* stack_bottom_ = nullptr;  // lowest address, for the address sanitizer
  size_t stack_bytes_ = 0;
};

}  // namespace facet::emu
