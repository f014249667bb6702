#include "cuda/vendor/comm.h"

#include <nccl.h>

#include <chrono>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "cuda/runtime.h"
#include "cuda/vendor/library.h"

namespace facet::cuda {
namespace {

using Clock = std::chrono::steady_clock;

struct Nccl : vendor::Library {
  Nccl() : Library("NCCL", {"libnccl.so.2"}) {}
  VENDOR_FUNCTION(ncclGetVersion);
  VENDOR_FUNCTION(ncclGetErrorString);
  VENDOR_FUNCTION(ncclGetUniqueId);
  VENDOR_FUNCTION(ncclCommInitRank);
  VENDOR_FUNCTION(ncclCommDestroy);
  VENDOR_FUNCTION(ncclCommAbort);
  VENDOR_FUNCTION(ncclCommGetAsyncError);
  VENDOR_FUNCTION(ncclGroupStart);
  VENDOR_FUNCTION(ncclGroupEnd);
  VENDOR_FUNCTION(ncclAllReduce);
  VENDOR_FUNCTION(ncclAllGather);
  VENDOR_FUNCTION(ncclBroadcast);
};
const Nccl& nccl() {
  static const auto* const library = new Nccl;
  return *library;
}

void check_nccl(ncclResult_t result, const char* call) {
  if (result != ncclSuccess && result != ncclInProgress)
    throw DeviceError("{}: {}", call, nccl().ncclGetErrorString(result));
}

ncclDataType_t type_of(DType dtype) {
  switch (dtype) {
    case DType::f32: return ncclFloat32;
    case DType::bf16: return ncclBfloat16;
    case DType::f64: return ncclFloat64;
    case DType::i32: return ncclInt32;
    case DType::i64: return ncclInt64;
    case DType::u8: return ncclUint8;
  }
  throw InternalError("a type of tensors that NCCL lacks");
}

// What a rank asks for.
struct Call {
  const char* name = "";
  size_t tensors = 1;
  int64_t elements = 0;
  DType dtype = DType::f32;
  int root = 0;

  bool operator==(const Call& other) const {
    return std::string_view(name) == other.name && tensors == other.tensors &&
           elements == other.elements && dtype == other.dtype && root == other.root;
  }
  std::string str() const {
    return fmt::format("{} of {} {} values in {} tensors, root {}", name, elements,
                       facet::name(dtype), tensors, root);
  }
};

// What the ranks of one run share. NCCL itself hangs where ranks call different things and where
// one does not come, so that calls are compared and awaited here.
class Clique {
 public:
  Clique(std::span<const int> devices, double patience)
      : devices_(devices.begin(), devices.end()), patience_(patience), ranks_(devices.size()) {
    ncclUniqueId id;
    check_nccl(nccl().ncclGetUniqueId(&id), "ncclGetUniqueId");
    check_nccl(nccl().ncclGroupStart(), "ncclGroupStart");
    for (size_t rank = 0; rank < devices_.size(); ++rank) {
      const DeviceGuard guard(devices_[rank]);
      check_nccl(nccl().ncclCommInitRank(&ranks_[rank].handle, size(), id, static_cast<int>(rank)),
                 "ncclCommInitRank");
    }
    check_nccl(nccl().ncclGroupEnd(), "ncclCommInitRank");
    connect();
  }
  ~Clique() {
    for (size_t rank = 0; rank < ranks_.size(); ++rank)
      if (ranks_[rank].handle) {
        const DeviceGuard guard(devices_[rank], std::nothrow);
        static_cast<void>(cudaStreamSynchronize(stream(devices_[rank])));
        static_cast<void>(nccl().ncclCommDestroy(ranks_[rank].handle));
      }
  }
  Clique(const Clique&) = delete;
  Clique& operator=(const Clique&) = delete;

  int size() const { return static_cast<int>(devices_.size()); }
  int device(int rank) const { return devices_[static_cast<size_t>(rank)]; }

  // Calls f(communicator, stream) for a rank that asks for `call`.
  template <typename F>
  void enter(int rank, const Call& call, const F& f) {
    Rank& mine = ranks_[static_cast<size_t>(rank)];
    compare(rank, call);
    const DeviceGuard guard(device(rank));
    const std::lock_guard lock(mine.mutex);
    if (!mine.handle) throw RankStopped();
    check_nccl(nccl().ncclGroupStart(), "ncclGroupStart");
    const ncclResult_t result = f(mine.handle, stream(device(rank)));
    const ncclResult_t end = nccl().ncclGroupEnd();
    check_nccl(result, call.name);
    check_nccl(end, call.name);
  }
  void check(int rank) {
    Rank& mine = ranks_[static_cast<size_t>(rank)];
    const std::lock_guard lock(mine.mutex);
    if (!mine.handle) throw RankStopped();
    ncclResult_t state = ncclSuccess;
    check_nccl(nccl().ncclCommGetAsyncError(mine.handle, &state), "ncclCommGetAsyncError");
    check_nccl(state, fmt::format("NCCL on cuda:{}", device(rank)).c_str());
  }
  void end(int rank) {
    const std::lock_guard lock(mutex_);
    ranks_[static_cast<size_t>(rank)].ended = true;
  }

  // Work that waits for others on the devices is given up, and ranks are stopped at their next
  // call.
  // Throws nothing: devices may be in any state.
  void stop() {
    for (size_t rank = 0; rank < ranks_.size(); ++rank) {
      const std::lock_guard lock(ranks_[rank].mutex);
      if (ncclComm_t handle = std::exchange(ranks_[rank].handle, nullptr))
        static_cast<void>(nccl().ncclCommAbort(handle));
    }
  }

  // Throws where a rank is missed in the oldest call that is not complete.
  void watch() {
    const std::lock_guard lock(mutex_);
    if (calls_.empty()) return;
    const auto& [number, oldest] = *calls_.begin();
    const double seconds = std::chrono::duration<double>(Clock::now() - oldest.since).count();
    for (size_t rank = 0; rank < ranks_.size(); ++rank) {
      if (ranks_[rank].calls > number) continue;
      const std::string waits =
          fmt::format("rank {} waits in call {}, {}", oldest.first, number + 1, oldest.call.str());
      if (ranks_[rank].ended) throw Error("rank {} ended after {} calls, {}", rank, number, waits);
      if (seconds > patience_)
        throw Error("rank {} on cuda:{} did not come for {:.1f} s: {}", rank, devices_[rank],
                    seconds, waits);
    }
  }

 private:
  struct Rank {
    std::mutex mutex;             // of the handle
    ncclComm_t handle = nullptr;  // none: stopped
    uint64_t calls = 0;
    bool ended = false;
  };
  struct Pending {
    Call call;
    int first = 0;  // the rank that came first
    int arrived = 0;
    Clock::time_point since;
  };

  void compare(int rank, const Call& call) {
    const std::lock_guard lock(mutex_);
    const uint64_t number = ranks_[static_cast<size_t>(rank)].calls++;
    Pending& pending = calls_[number];
    if (pending.arrived == 0) pending = {call, rank, 0, Clock::now()};
    if (!(call == pending.call))
      throw Error("rank {} calls {}; rank {}: {}", rank, call.str(), pending.first,
                  pending.call.str());
    if (++pending.arrived == size()) calls_.erase(number);
  }

  // NCCL connects devices in their first collective and waits in the call itself meanwhile, where
  // no rank could be stopped: so all do it here together.
  void connect() {
    TensorList ones;
    for (const int device : devices_)
      ones.push_back(Tensor::full({1}, 1.0, DType::f32, {DeviceType::cuda, device}));
    check_nccl(nccl().ncclGroupStart(), "ncclGroupStart");
    for (size_t rank = 0; rank < ranks_.size(); ++rank) {
      const DeviceGuard guard(devices_[rank]);
      check_nccl(nccl().ncclAllReduce(ones[rank].raw(), ones[rank].raw(), 1, ncclFloat32, ncclSum,
                                      ranks_[rank].handle, stream(devices_[rank])),
                 "ncclAllReduce");
    }
    check_nccl(nccl().ncclGroupEnd(), "ncclAllReduce");
    for (const Tensor& one : ones)
      if (one.item() != size()) throw DeviceError("NCCL adds {} ones to {}", size(), one.item());
  }

  std::vector<int> devices_;
  double patience_;
  std::mutex mutex_;  // of the calls
  std::vector<Rank> ranks_;
  std::map<uint64_t, Pending> calls_;  // that not all ranks have come to, by number
};

class NcclRank final : public Comm {
 public:
  NcclRank(Clique& clique, int rank) : clique_(clique), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return clique_.size(); }

  void all_reduce(Tensor& x) override { all_reduce(std::span(&x, 1)); }
  // One launch for all.
  void all_reduce(std::span<Tensor> tensors) override {
    if (tensors.empty()) return;
    int64_t elements = 0;
    for (const Tensor& x : tensors) {
      expect_here(x);
      elements += x.numel();
    }
    const Call call{"all_reduce", tensors.size(), elements, tensors[0].dtype()};
    clique_.enter(rank_, call, [&](ncclComm_t comm, cudaStream_t on) {
      ncclResult_t result = ncclSuccess;
      for (Tensor& x : tensors)
        if (result == ncclSuccess && x.numel() > 0)
          result = nccl().ncclAllReduce(x.raw(), x.raw(), static_cast<size_t>(x.numel()),
                                        type_of(x.dtype()), ncclSum, comm, on);
      return result;
    });
  }
  Tensor all_gather(const Tensor& x) override {
    expect_here(x);
    FACET_CHECK(x.rank() > 0, "all_gather", "expected rows, got a scalar");
    Shape shape = x.shape();
    shape.set(0, shape[0] * size());
    Tensor all = Tensor::empty(shape, x.dtype(), x.device());
    clique_.enter(rank_, {"all_gather", 1, x.numel(), x.dtype()},
                  [&](ncclComm_t comm, cudaStream_t on) {
                    if (x.numel() == 0) return ncclSuccess;
                    return nccl().ncclAllGather(x.raw(), all.raw(), static_cast<size_t>(x.numel()),
                                                type_of(x.dtype()), comm, on);
                  });
    return all;
  }
  void broadcast(Tensor& x, int root) override {
    expect_here(x);
    FACET_CHECK(root >= 0 && root < size(), "broadcast", "rank {} of {}", root, size());
    clique_.enter(rank_, {"broadcast", 1, x.numel(), x.dtype(), root},
                  [&](ncclComm_t comm, cudaStream_t on) {
                    if (x.numel() == 0) return ncclSuccess;
                    return nccl().ncclBroadcast(x.raw(), x.raw(), static_cast<size_t>(x.numel()),
                                                type_of(x.dtype()), root, comm, on);
                  });
  }
  void barrier() override {
    Tensor one = Tensor::full({1}, 1.0, DType::f32, device());
    all_reduce(one);
    one.item();
    check();
  }
  void check() override { clique_.check(rank_); }

 private:
  Device device() const { return {DeviceType::cuda, clique_.device(rank_)}; }
  void expect_here(const Tensor& x) const {
    FACET_CHECK(x.device() == device(), "comm", "expected a tensor on {}, got {}", device().str(),
                x.str());
  }

  Clique& clique_;
  int rank_;
};

}  // namespace

void run_ranks(std::span<const int> devices, const std::function<void(Comm& comm)>& body,
               double patience) {
  if (!nccl().found()) {
    vendor::note_refusal("ranks talk by copies: " + nccl().missing());
    return facet::run_ranks(static_cast<int>(devices.size()), body);
  }
  Clique clique(devices, patience);
  const auto work = [&](int rank) {
    NcclRank comm(clique, rank);
    body(comm);
    clique.end(rank);
  };
  run_rank_threads(
      clique.size(), work, [&] { clique.stop(); }, [&] { clique.watch(); });
}

std::string vendor::comm_library() {
  if (!nccl().found()) return nccl().describe_missing();
  int version = 0;
  check_nccl(nccl().ncclGetVersion(&version), "ncclGetVersion");
  return nccl().describe(version);
}

}  // namespace facet::cuda
