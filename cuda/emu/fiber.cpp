#include "cuda/emu/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "cuda/emu/sanitizers.h"
#include "tensor/check.h"

#if !defined(__x86_64__) && !defined(__aarch64__)
#include <ucontext.h>
#endif

namespace facet::emu {
namespace {

// What the switch hands to the fiber that continues.
thread_local Fiber* previous = nullptr;
thread_local Fiber* entering = nullptr;

}  // namespace

// facet_emu_switch(save, load): pushes the registers that the calling convention keeps, stores the
// stack pointer in *save, takes `load` for it and pops the other side's registers.
#if defined(__x86_64__)
extern "C" void facet_emu_switch(void** save, void* load);
asm(R"(
.text
.globl facet_emu_switch
.type facet_emu_switch, @function
facet_emu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size facet_emu_switch, .-facet_emu_switch
)");
#elif defined(__aarch64__)
extern "C" void facet_emu_switch(void** save, void* load);
asm(R"(
.text
.globl facet_emu_switch
.type facet_emu_switch, %function
facet_emu_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x2, sp
  str x2, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size facet_emu_switch, .-facet_emu_switch
)");
#endif

Fiber::Fiber() = default;

Fiber::Fiber(std::function<void()> body) : body_(std::move(body)), stack_bytes_(kStackBytes) {
  const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  mapping_ = ::mmap(nullptr, page + kStackBytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_NORESERVE, -1, 0);
  if (mapping_ == MAP_FAILED) throw InternalError("emulator: no memory for a thread's stack");
  ::mprotect(mapping_, page, PROT_NONE);
  auto* const bottom = static_cast<std::byte*>(mapping_) + page;
  stack_bottom_ = bottom;
#if defined(__x86_64__)
  // As after a call: the return address at a multiple of 16, less 8.
  auto** top = reinterpret_cast<void**>(bottom + kStackBytes);
  *--top = nullptr;  // where enter() would return to
  *--top = reinterpret_cast<void*>(&Fiber::enter);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  stack_pointer_ = top;
#elif defined(__aarch64__)
  auto** top = reinterpret_cast<void**>(bottom + kStackBytes) - 20;
  std::memset(top, 0, 160);
  top[11] = reinterpret_cast<void*>(&Fiber::enter);  // x30
  stack_pointer_ = top;
#else
  auto* context = new ucontext_t;
  ::getcontext(context);
  context->uc_stack.ss_sp = bottom;
  context->uc_stack.ss_size = kStackBytes;
  ::makecontext(context, &Fiber::enter, 0);
  stack_pointer_ = context;
#endif
}

Fiber::~Fiber() {
#if !defined(__x86_64__) && !defined(__aarch64__)
  delete static_cast<ucontext_t*>(stack_pointer_);
#endif
  if (!mapping_) return;
  sanitizers::forget_stack(stack_bottom_, stack_bytes_);
  const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  ::munmap(mapping_, page + stack_bytes_);
}

void Fiber::enter() {
  Fiber* const self = entering;
  sanitizers::finish_switch(nullptr, &previous->stack_bottom_, &previous->stack_bytes_);
  self->body_();
  std::abort();  // body() must not return
}

void Fiber::switch_to(Fiber& from, Fiber& to) {
  previous = &from;
  entering = &to;
  void* fake_stack = nullptr;
  sanitizers::start_switch(&fake_stack, to.stack_bottom_, to.stack_bytes_);
#if defined(__x86_64__) || defined(__aarch64__)
  facet_emu_switch(&from.stack_pointer_, to.stack_pointer_);
#else
  if (!from.stack_pointer_) from.stack_pointer_ = new ucontext_t;
  ::swapcontext(static_cast<ucontext_t*>(from.stack_pointer_),
                static_cast<ucontext_t*>(to.stack_pointer_));
#endif
  // Somebody switched back. The stack of a thread that is no fiber of ours becomes known here.
  sanitizers::finish_switch(fake_stack, &previous->stack_bottom_, &previous->stack_bytes_);
}

}  // namespace facet::emu
