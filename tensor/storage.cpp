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

DeviceMemory& memory_of(DeviceType type) {
  static DeviceMemory all[] = {
      {.allocate = [](size_t bytes, Device) { return cpu_allocate(bytes); },
       .release = [](void* data, size_t bytes, Device) { cpu_release(data, bytes); },
       .set = [](void* data, int value, size_t bytes, Device) { std::memset(data, value, bytes); },
       .read = [](void* to, const void* data, size_t bytes,
                  Device) { std::memcpy(to, data, bytes); }},
      {}};
  return all[static_cast<int>(type)];
}

void release(void* data, size_t bytes, Device device) {
  memory_of(device.type).release(data, bytes, device);
}

void* allocate_guarded(size_t bytes, Device device) {
  const DeviceMemory& memory = memory_of(device.type);
  auto* base = static_cast<unsigned char*>(memory.allocate(bytes + 2 * kGuardBytes, device));
  memory.set(base, kGuardValue, kGuardBytes, device);
  memory.set(base + kGuardBytes, 0xFF, bytes, device);
  memory.set(base + kGuardBytes + bytes, kGuardValue, kGuardBytes, device);
  return base + kGuardBytes;
}

void release_guarded(void* data, size_t bytes, Device device) {
  unsigned char* base = static_cast<unsigned char*>(data) - kGuardBytes;
  const auto intact = [&](const unsigned char* guard) {
    unsigned char host[kGuardBytes];
    memory_of(device.type).read(host, guard, kGuardBytes, device);
    return std::all_of(host, host + kGuardBytes, [](auto v) { return v == kGuardValue; });
  };
  if (!intact(base) || !intact(base + kGuardBytes + bytes)) ++overwritten;
  release(base, bytes + 2 * kGuardBytes, device);
}

}  // namespace

void guard_storage(bool on) {
  guarding = on;
}
int64_t overwritten_guards() {
  return overwritten;
}

std::shared_ptr<Storage> Storage::allocate(size_t bytes, Device device) {
  FACET_CHECK(memory_of(device.type).allocate, "allocate",
              "no allocator for {}: this build has no such device", device.str());
  if (guarding)
    return std::make_shared<Storage>(allocate_guarded(bytes, device), bytes, device,
                                     release_guarded);
  return std::make_shared<Storage>(memory_of(device.type).allocate(bytes, device), bytes, device,
                                   release);
}

std::shared_ptr<Storage> Storage::send(const void* from_host, size_t bytes, Device device) {
  FACET_CHECK(memory_of(device.type).send, "send", "nothing is sent to {}", device.str());
  return std::make_shared<Storage>(memory_of(device.type).send(from_host, bytes, device), bytes,
                                   device, release);
}

void install_memory(DeviceType type, const DeviceMemory& memory) {
  memory_of(type) = memory;
}

}  // namespace facet
