#include "tensor/storage.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "tensor/check.h"
#include "tensor/cpu/allocator.h"

namespace facet {
namespace {

constexpr size_t kGuardBytes = 64;  // keeps the alignment
constexpr unsigned char kGuardValue = 0xA5;
std::atomic<bool> guarding{false};
std::atomic<int64_t> overwritten{0};

void* allocate_guarded(size_t bytes) {
  auto* base = static_cast<unsigned char*>(cpu_allocate(bytes + 2 * kGuardBytes));
  std::memset(base, kGuardValue, kGuardBytes);
  std::memset(base + kGuardBytes, 0xFF, bytes);
  std::memset(base + kGuardBytes + bytes, kGuardValue, kGuardBytes);
  return base + kGuardBytes;
}

void release_guarded(void* data, size_t bytes, Device) {
  unsigned char* base = static_cast<unsigned char*>(data) - kGuardBytes;
  const auto intact = [](const unsigned char* guard) {
    return std::all_of(guard, guard + kGuardBytes, [](auto v) { return v == kGuardValue; });
  };
  if (!intact(base) || !intact(base + kGuardBytes + bytes)) ++overwritten;
  cpu_release(base, bytes + 2 * kGuardBytes);
}

}  // namespace

void guard_storage(bool on) {
  guarding = on;
}
int64_t overwritten_guards() {
  return overwritten;
}

std::shared_ptr<Storage> Storage::allocate(size_t bytes, Device device) {
  FACET_CHECK(device.is_cpu(), "allocate", "no allocator for {}: this build has no such device",
              device.str());
  if (guarding)
    return std::make_shared<Storage>(allocate_guarded(bytes), bytes, device, release_guarded);
  return std::make_shared<Storage>(
      cpu_allocate(bytes), bytes, device,
      [](void* data, size_t size, Device) { cpu_release(data, size); });
}

}  // namespace facet
