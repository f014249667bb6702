#include "cuda/vendor/library.h"

#include <dlfcn.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>

#include "cuda/runtime.h"
#include "cuda/vendor/blas.h"
#include "cuda/vendor/comm.h"
#include "cuda/vendor/dnn.h"
#include "cuda/vendor/solver.h"
#include "tensor/text.h"
#if defined(FACET_CUDA_EMULATED)
#include "cuda/emu/runtime.h"
#endif

namespace facet::cuda::vendor {
namespace {

constexpr int64_t kAlignment = 256;

std::atomic<int64_t> calls_made{0};
std::mutex refusal_mutex;
std::string& refusal() {
  static auto* const text = new std::string;
  return *text;
}

std::string environment(const char* name) {
  const char* text = std::getenv(name);
  return text ? text : "";
}

}  // namespace

std::string description() {
  return fmt::format("{}, {}, {}, {}", blas_library(), dnn_library(), solver_library(),
                     comm_library());
}

int64_t calls() {
  return calls_made;
}
void count_call() {
  ++calls_made;
}
std::string last_refusal() {
  const std::lock_guard lock(refusal_mutex);
  return refusal();
}
void note_refusal(const std::string& what) {
  static_cast<void>(cudaGetLastError());  // it is no error of the launches that follow
  const std::lock_guard lock(refusal_mutex);
  refusal() = what;
}

void* open_library(const std::vector<std::string>& files, std::string& why) {
  std::vector<std::string> prefixes = {""};
  for (const std::string& folder : split_list(environment("FACET_CUDA_LIBRARIES"), ':'))
    if (!folder.empty()) prefixes.push_back(folder + "/");
  if (const std::string home = environment("CUDA_HOME"); !home.empty())
    prefixes.push_back(home + "/lib64/");
  prefixes.push_back("/usr/local/cuda/lib64/");
  why = files.front() + " is not in the loader's path or in FACET_CUDA_LIBRARIES";
  for (const std::string& file : files)
    for (const std::string& prefix : prefixes) {
      const std::string path = prefix + file;
      if (void* const handle = ::dlopen(path.c_str(), RTLD_LAZY | RTLD_LOCAL)) return handle;
      // It is there, but something that it needs is not.
      if (!prefix.empty() && ::access(path.c_str(), F_OK) == 0) why = ::dlerror();
    }
  return nullptr;
}

Library::Library(std::string name, const std::vector<std::string>& files) : name_(std::move(name)) {
#if defined(FACET_CUDA_EMULATED)
  static_cast<void>(files);
  if (!emu::machine().vendor_libraries) missing_ = "the emulated machine has none";
#else
  handle_ = open_library(files, missing_);
  if (handle_) missing_.clear();
#endif
}

void* Library::symbol(const char* name) {
  if (!found()) return nullptr;
  void* const function = ::dlsym(handle_, name);
  if (!function) missing_ = fmt::format("it has no {}", name);
  return function;
}

std::string Library::describe(int64_t version, int64_t major) const {
  if (version == 0) return name_ + " stand-in";
  return fmt::format("{} {}.{}.{}", name_, version / major, version % major / 100, version % 100);
}

int64_t alignment(const Tensor& t) {
  const auto address = reinterpret_cast<int64_t>(t.raw()) | kAlignment;
  return address & -address;
}

Workspace::Workspace(int64_t bytes, Device device)
    : memory_(bytes == 0 ? Tensor() : Tensor::empty({bytes + kAlignment}, DType::u8, device)) {}

void* Workspace::data() const {
  if (!memory_.defined()) return nullptr;
  const auto address = reinterpret_cast<uintptr_t>(memory_.raw());
  return reinterpret_cast<void*>((address + kAlignment - 1) / kAlignment * kAlignment);
}

}  // namespace facet::cuda::vendor
