// Correlations of two series, as in SciPy: pearsonr, spearmanr and kendalltau (tau-b). NaN where a
// series is constant.
#pragma once

#include <span>
#include <vector>

namespace facet {

double pearson(std::span<const double> x, std::span<const double> y);
double spearman(std::span<const double> x, std::span<const double> y);
double kendall(std::span<const double> x, std::span<const double> y);
// Share of variance that a straight line explains: pearson squared.
double r_squared(std::span<const double> x, std::span<const double> y);

// Ranks from 1; equal values share their mean rank.
std::vector<double> ranks(std::span<const double> x);

}  // namespace facet
