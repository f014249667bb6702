// The vendors' libraries. They are looked for when the program runs, because a binary is carried to
// machines that have other versions of them, or none. One that is missing costs speed, not the
// program: facet's own kernels do the work. In an emulated build the same calls reach the stand-ins
// of cuda/emu/standin.
#pragma once

#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace facet::cuda::vendor {

// "cuBLASLt 13.1.0, cuDNN 9.19.0, cuSOLVER not found, NCCL 2.28.9"
std::string description();

// Products and convolutions that a vendor's library has done so far.
int64_t calls();
void count_call();
// Why a library did not take what it was offered last; empty: none has refused anything.
std::string last_refusal();
void note_refusal(const std::string& what);

// Opens the first of `files` that there is: in the loader's own path, in the folders of
// FACET_CUDA_LIBRARIES (separated by colons), in CUDA_HOME/lib64, in /usr/local/cuda/lib64.
// nullptr where there is none; `why` then says so in a few words.
void* open_library(const std::vector<std::string>& files, std::string& why);

// A library's table of functions, filled when it is made; derive from it and add a VENDOR_FUNCTION
// for each.
class Library {
 public:
  bool found() const { return missing_.empty(); }
  const std::string& missing() const { return missing_; }  // why it is not there
  // "cuDNN 9.19.0" of the version 91900; major: what stands for one major version
  std::string describe(int64_t version, int64_t major = 10000) const;
  std::string describe_missing() const { return name_ + " not found"; }

 protected:
  Library(std::string name, const std::vector<std::string>& files);
  void* symbol(const char* name);

 private:
  std::string name_, missing_;
  void* handle_ = nullptr;
};

#if defined(FACET_CUDA_EMULATED)
#define VENDOR_FUNCTION(name) decltype(&::name) name = found() ? &::name : nullptr
#else
#define VENDOR_FUNCTION(name) \
  decltype(&::name) name = reinterpret_cast<decltype(&::name)>(symbol(#name))
#endif

// What a library keeps for a device; never destroyed, as tensors in static variables may be used
// last of all.
template <typename State>
State& state_of(int device) {
  static auto* const mutex = new std::mutex;
  static auto* const states = new std::map<int, State>;
  const std::lock_guard lock(*mutex);
  return (*states)[device];
}

// The largest power of two up to 256 that divides the address of t's memory.
int64_t alignment(const Tensor& t);

// Device memory that begins at a multiple of 256 bytes, as the libraries want it.
class Workspace {
 public:
  Workspace() = default;
  Workspace(int64_t bytes, Device device);
  void* data() const;

 private:
  Tensor memory_;
};

}  // namespace facet::cuda::vendor
