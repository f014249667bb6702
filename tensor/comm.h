// Ranks that work on one batch together: what one has to know of the others' tensors. Losses are
// written against this and are exact on any number of ranks.
#pragma once

#include <functional>
#include <span>

#include "tensor/tensor.h"

namespace facet {

// Every rank calls the same methods in the same order with tensors of equal shape and type. All get
// the same bits.
class Comm {
 public:
  virtual ~Comm() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual void all_reduce(Tensor& x) = 0;              // x = sum over ranks
  virtual void all_reduce(std::span<Tensor> tensors);  // the same of each
  virtual Tensor all_gather(const Tensor& x) = 0;      // (size * rows, ...), rank 0 first
  virtual void broadcast(Tensor& x, int root) = 0;     // x = the root's
  virtual void barrier() = 0;
  // Throws where another rank has failed, so that what was computed with it is worth nothing. To be
  // called once a device was waited for, before its numbers are used or kept.
  virtual void check() {}
};

// What ranks meet that go on where another has thrown.
struct RankStopped : Error {
  RankStopped() : Error("another rank stopped with an error") {}
};

// A rank of its own: sums and gathers are what they are given.
Comm& single_rank();

// Runs body(comm) on `size` ranks, each a thread of this process. When one throws, the others stop
// at their next call, and the first exception is rethrown here.
void run_ranks(int size, const std::function<void(Comm& comm)>& body);

// The threads of such ranks, for other kinds of Comm: runs work(rank) on each. When one throws,
// stop() is called, after which all must end; the first exception is rethrown. watch() is called
// now and then meanwhile; what it throws counts like an exception of a rank.
void run_rank_threads(int size, const std::function<void(int rank)>& work,
                      const std::function<void()>& stop, const std::function<void()>& watch = {});

}  // namespace facet
