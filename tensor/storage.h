#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "tensor/device.h"

namespace facet {

// A block of bytes on one device, returned to its allocator when the last handle goes.
class Storage {
 public:
  using Deleter = void (*)(void* data, size_t bytes, Device device);

  Storage(void* data, size_t bytes, Device device, Deleter deleter)
      : data_(data), bytes_(bytes), device_(device), deleter_(deleter) {}
  ~Storage() {
    if (deleter_) deleter_(data_, bytes_, device_);
  }
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  // Uninitialised memory from the device's caching allocator, at least 64-byte aligned.
  static std::shared_ptr<Storage> allocate(size_t bytes, Device device);
  static std::shared_ptr<Storage> send(const void* from_host, size_t bytes, Device device);

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  Device device() const { return device_; }

 private:
  void* data_;
  size_t bytes_;
  Device device_;
  Deleter deleter_;
};

// How memory of one type of device is had; all sizes in bytes. The CPU's is there from the start,
// others come with install_memory().
struct DeviceMemory {
  void* (*allocate)(size_t bytes, Device device);
  void (*release)(void* data, size_t bytes, Device device);
  // Fills memory with one value, copies it to the host; both in the order of the device's work.
  void (*set)(void* data, int value, size_t bytes, Device device);
  void (*read)(void* to_host, const void* data, size_t bytes, Device device);
  // Fresh memory with a copy of the host's, beside the device's work; waits for the copy alone.
  void* (*send)(const void* from_host, size_t bytes, Device device) = nullptr;
};
void install_memory(DeviceType type, const DeviceMemory& memory);

// For tests. While on, fresh blocks are filled with 0xFF (a NaN in every floating type) and lie
// between guard bytes that are checked when the block is released.
void guard_storage(bool on);
// How many blocks were released with an overwritten guard so far.
int64_t overwritten_guards();

}  // namespace facet
