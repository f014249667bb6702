#include "tensor/backend.h"

#include "tensor/cpu/cpu_backend.h"

namespace facet {
namespace {
Backend*& slot(DeviceType type) {
  static Backend* backends[] = {&cpu_backend(), nullptr};
  return backends[static_cast<int>(type)];
}
}  // namespace

Backend& backend_for(Device device) {
  Backend* backend = slot(device.type);
  FACET_CHECK(backend, "backend", "no backend for {}: this build has no such device", device.str());
  return *backend;
}

Backend* install_backend(DeviceType type, Backend* backend) {
  return std::exchange(slot(type), backend);
}

}  // namespace facet
