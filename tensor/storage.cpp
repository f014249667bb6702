#include "tensor/storage.h"

#include "tensor/check.h"
#include "tensor/cpu/allocator.h"

namespace facet {

std::shared_ptr<Storage> Storage::allocate(size_t bytes, Device device) {
  FACET_CHECK(device.is_cpu(), "allocate", "no allocator for {}: this build has no such device",
              device.str());
  return std::make_shared<Storage>(
      cpu_allocate(bytes), bytes, device,
      [](void* data, size_t size, Device) { cpu_release(data, size); });
}

}  // namespace facet
