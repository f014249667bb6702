// The one way to spread host work over cores.
#pragma once

#include <cstdint>
#include <functional>

namespace facet {

// Number of threads that parallel_for uses (default: the cores this process may run on).
int num_threads();
void set_num_threads(int n);

// Calls body(begin, end) on disjoint ranges that cover [0, n), at most one per thread, each of at
// least `grain` items (but the last). How the range is cut depends on n, grain and num_threads()
// only. Runs inline when called from inside another parallel_for. An exception from a body is
// rethrown here.
void parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)>& body);

// How many ranges parallel_for(n, grain) makes, and the range of part p: for two-pass reductions
// with one partial result a part, combined in the order of the parts.
int parallel_parts(int64_t n, int64_t grain);

// The same with the part's number: body(part, begin, end).
void parallel_for_parts(int64_t n, int64_t grain,
                        const std::function<void(int, int64_t, int64_t)>& body);

}  // namespace facet
