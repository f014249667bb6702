// Ranks that work on one batch together: what one has to know of the others' tensors. Losses are
// written against this and are exact on any number of ranks.
#pragma once

#include <functional>

#include "tensor/tensor.h"

namespace facet {

// Every rank calls the same methods in the same order with tensors of equal shape and type. Sums
// run in the order of ranks, so that all get the same bits.
class Comm {
 public:
  virtual ~Comm() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual void all_reduce(Tensor& x) = 0;           // x = sum over ranks
  virtual Tensor all_gather(const Tensor& x) = 0;   // (size * rows, ...), rank 0 first
  virtual void broadcast(Tensor& x, int root) = 0;  // x = the root's
  virtual void barrier() = 0;
};

// A rank of its own: sums and gathers are what they are given.
Comm& single_rank();

// Runs body(comm) on `size` ranks, each a thread of this process. When one throws, the others stop
// at their next call, and the first exception is rethrown here.
void run_ranks(int size, const std::function<void(Comm& comm)>& body);

}  // namespace facet
