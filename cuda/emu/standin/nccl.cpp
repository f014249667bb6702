// NCCL between emulated devices, under NCCL's own rules: a collective is work in a stream and meets
// the same one of every other rank there; calls in a group begin at its end; a communicator is one
// rank's and belongs to the device that was current. Sums run in the order of ranks and are rounded
// to their type each time. Where NCCL would hang or spoil memory, as when ranks call different
// things, the device fails with a text that names both. What facet does not use is refused.
#include <fmt/format.h>
#include <nccl.h>

#include <cstring>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "cuda/emu/error.h"
#include "cuda/emu/runtime.h"
#include "tensor/dtype.h"

namespace facet::emu {
namespace {

struct Call {
  const char* name = nullptr;
  size_t count = 0;  // each rank's part
  ncclDataType_t type = ncclFloat32;
  int root = 0;
  const void* from = nullptr;
  void* to = nullptr;

  bool matches(const Call& other) const {
    return std::string(name) == other.name && count == other.count && type == other.type &&
           root == other.root;
  }
  std::string str() const {
    return fmt::format("{} of {} values of type {}, root {}", name, count, static_cast<int>(type),
                       root);
  }
};

// A collective that ranks have come to.
struct Encounter {
  std::vector<Call> calls;
  size_t arrived = 0, left = 0;
  bool done = false;
};

// The ranks of one unique id.
struct Clique {
  explicit Clique(int size)
      : members(static_cast<size_t>(size)),
        streams(members.size()),
        arrivals(members.size()),
        aborted(members.size()) {}

  std::vector<Communicator*> members;
  std::vector<cudaStream_t> streams;  // where each rank's last collective is
  std::vector<uint64_t> arrivals;     // collectives that each rank has come to
  std::vector<char> aborted;
  std::map<uint64_t, Encounter> encounters;
  ncclResult_t error = ncclSuccess;
};

std::map<std::string, std::shared_ptr<Clique>>& cliques() {
  static auto* const all = new std::map<std::string, std::shared_ptr<Clique>>;
  return *all;
}

thread_local int group_depth = 0;
thread_local std::vector<std::function<ncclResult_t()>> group;

// Now, or at the end of the group.
ncclResult_t in_group(std::function<ncclResult_t()> work) {
  if (group_depth == 0) return work();
  group.push_back(std::move(work));
  return ncclSuccess;
}

size_t size_of(ncclDataType_t type) {
  switch (type) {
    case ncclUint8: return 1;
    case ncclBfloat16: return 2;
    case ncclInt32:
    case ncclFloat32: return 4;
    case ncclInt64:
    case ncclFloat64: return 8;
  }
  return 0;
}

template <typename T>
void sum(const std::vector<Call>& calls) {
  const size_t count = calls[0].count;
  std::vector<T> total(static_cast<const T*>(calls[0].from),
                       static_cast<const T*>(calls[0].from) + count);
  for (size_t rank = 1; rank < calls.size(); ++rank)
    for (size_t i = 0; i < count; ++i)
      total[i] = static_cast<T>(total[i] + static_cast<const T*>(calls[rank].from)[i]);
  for (const Call& call : calls) std::memcpy(call.to, total.data(), count * sizeof(T));
}

void perform(const std::vector<Call>& calls) {
  const Call& first = calls[0];
  const size_t bytes = first.count * size_of(first.type);
  if (bytes == 0) return;
  const std::string name = first.name;
  if (name == "ncclAllReduce") {
    switch (first.type) {
      case ncclUint8: return sum<uint8_t>(calls);
      case ncclInt32: return sum<int32_t>(calls);
      case ncclInt64: return sum<int64_t>(calls);
      case ncclFloat32: return sum<float>(calls);
      case ncclFloat64: return sum<double>(calls);
      case ncclBfloat16: return sum<bf16>(calls);
    }
  }
  // All are read before one is written: a rank's part may lie in its result.
  std::vector<std::byte> gathered;
  for (size_t rank = 0; rank < calls.size(); ++rank) {
    const auto* const from = static_cast<const std::byte*>(calls[rank].from);
    if (name == "ncclAllGather" || static_cast<int>(rank) == first.root)
      gathered.insert(gathered.end(), from, from + bytes);
  }
  for (const Call& call : calls) std::memcpy(call.to, gathered.data(), gathered.size());
}

// The work in a rank's stream.
void meet(const std::shared_ptr<Clique>& clique, size_t rank, const Call& call) {
  if (clique->aborted[rank] || clique->error != ncclSuccess) return;
  const uint64_t number = clique->arrivals[rank]++;
  Encounter& here = clique->encounters[number];
  here.calls.resize(clique->members.size());
  here.calls[rank] = call;
  ++here.arrived;
  for (size_t other = 0; other < here.calls.size(); ++other)
    if (here.calls[other].name && !here.calls[other].matches(call))
      throw KernelFault(fmt::format("NCCL: rank {} calls {}, rank {} {}", rank, call.str(), other,
                                    here.calls[other].str()));
  if (here.arrived == here.calls.size()) {
    FaultPlan plan = faults();
    if (plan.fail_collective >= 0) {
      if (plan.fail_collective-- == 0) clique->error = ncclRemoteError;
      plan_faults(plan);
    }
    if (clique->error == ncclSuccess) perform(here.calls);
    here.done = true;
    tell_waiting();
  }
  wait_in_work([&] { return here.done || clique->aborted[rank]; }, clique->streams);
  if (++here.left == here.calls.size()) clique->encounters.erase(number);
}

}  // namespace

struct Communicator {
  std::shared_ptr<Clique> clique;
  int rank = 0, device = 0;
};

namespace {

ncclResult_t enqueue_call(Communicator* comm, cudaStream_t stream, const Call& call) {
  const auto locked = lock();
  const auto ranks = static_cast<int>(comm->clique->members.size());
  if (call.root < 0 || call.root >= ranks || size_of(call.type) == 0) return ncclInvalidArgument;
  const size_t bytes = call.count * size_of(call.type);
  const bool gathers = std::string(call.name) == "ncclAllGather";
  if (device_of(stream) != comm->device || !is_device_memory(call.from, bytes, comm->device) ||
      !is_device_memory(call.to, gathers ? bytes * static_cast<size_t>(ranks) : bytes,
                        comm->device))
    return ncclInvalidArgument;
  const auto rank = static_cast<size_t>(comm->rank);
  comm->clique->streams[rank] = stream;
  enqueue(stream, [clique = comm->clique, rank, call] { meet(clique, rank, call); });
  return ncclSuccess;
}

ncclResult_t collective(Communicator* comm, cudaStream_t stream, const Call& call) {
  if (!comm || !call.from || !call.to) return ncclInvalidArgument;
  return in_group([=] { return enqueue_call(comm, stream, call); });
}

ncclResult_t join(Communicator** comm, int ranks, const ncclUniqueId& id, int rank, int device) {
  const auto locked = lock();
  auto& clique = cliques()[std::string(id.internal, sizeof id.internal)];
  if (!clique) clique = std::make_shared<Clique>(ranks);
  if (static_cast<int>(clique->members.size()) != ranks) return ncclInvalidArgument;
  for (const Communicator* other : clique->members)
    if (other && (other->rank == rank || other->device == device)) return ncclInvalidUsage;
  *comm = clique->members[static_cast<size_t>(rank)] = new Communicator{clique, rank, device};
  return ncclSuccess;
}

}  // namespace
}  // namespace facet::emu

using namespace facet::emu;

ncclResult_t ncclGetVersion(int* version) {
  *version = 0;
  return ncclSuccess;
}
const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess: return "no error";
    case ncclUnhandledCudaError: return "unhandled cuda error";
    case ncclSystemError: return "unhandled system error";
    case ncclInternalError: return "internal error";
    case ncclInvalidArgument: return "invalid argument";
    case ncclInvalidUsage: return "invalid usage";
    case ncclRemoteError: return "remote process exited or there was a network error";
    case ncclInProgress: return "NCCL operation in progress";
  }
  return "unknown result code";
}
ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  static int made = 0;
  const auto locked = lock();
  *id = {};
  ++made;
  std::memcpy(id->internal, &made, sizeof made);
  return ncclSuccess;
}
ncclResult_t ncclCommInitRank(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank) {
  if (!comm || ranks < 1 || rank < 0 || rank >= ranks) return ncclInvalidArgument;
  // Outside a group it would wait for the others' threads; facet makes all ranks in one.
  if (group_depth == 0 && ranks > 1) return ncclInvalidUsage;
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return ncclUnhandledCudaError;
  return in_group([=] { return join(comm, ranks, id, rank, device); });
}
ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  if (!comm) return ncclInvalidArgument;
  delete comm;
  return ncclSuccess;
}
ncclResult_t ncclCommAbort(ncclComm_t comm) {
  if (!comm) return ncclInvalidArgument;
  const auto locked = lock();
  comm->clique->aborted[static_cast<size_t>(comm->rank)] = 1;
  tell_waiting();
  delete comm;
  return ncclSuccess;
}
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error) {
  if (!comm) return ncclInvalidArgument;
  const auto locked = lock();
  *error = comm->clique->error;
  return ncclSuccess;
}

ncclResult_t ncclGroupStart() {
  ++group_depth;
  return ncclSuccess;
}
ncclResult_t ncclGroupEnd() {
  if (group_depth == 0) return ncclInvalidUsage;
  if (--group_depth > 0) return ncclSuccess;
  ncclResult_t result = ncclSuccess;
  for (const auto& work : std::exchange(group, {}))
    if (result == ncclSuccess) result = work();
  return result;
}

ncclResult_t ncclAllReduce(const void* from, void* to, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
  if (op != ncclSum) return ncclInvalidUsage;
  return collective(comm, stream, {"ncclAllReduce", count, type, 0, from, to});
}
ncclResult_t ncclAllGather(const void* from, void* to, size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream) {
  return collective(comm, stream, {"ncclAllGather", count, type, 0, from, to});
}
ncclResult_t ncclBroadcast(const void* from, void* to, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream) {
  return collective(comm, stream, {"ncclBroadcast", count, type, root, from, to});
}
