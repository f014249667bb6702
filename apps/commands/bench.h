#pragma once

#include <vector>

#include "apps/options.h"

namespace facet {

void bench_data(const Arguments& arguments);
void bench_ops(const Arguments& arguments);
void bench_peers(const Arguments& arguments);
void bench_probe(const Arguments& arguments);
double median(std::vector<double> values);

}  // namespace facet
