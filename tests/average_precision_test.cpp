// Mean average precision, as COCO's labels are scored, beside scikit-learn's on random scores.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "metrics/accuracy.h"
#include "tensor/random.h"

namespace facet {
namespace {

namespace fs = std::filesystem;

constexpr const char* kScript =
    "import sys\n"
    "try:\n"
    "    import numpy as np\n"
    "    from sklearn.metrics import average_precision_score\n"
    "except ImportError:\n"
    "    print('missing')\n"
    "    sys.exit()\n"
    "d = np.loadtxt(sys.argv[1])\n"
    "c = d.shape[1] // 2\n"
    "for k in range(c):\n"
    "    print('%.17g' % average_precision_score(d[:, c + k], d[:, k]))\n";

std::string output_of(const std::string& command) {
  FILE* const pipe = ::popen(command.c_str(), "r");
  std::string text;
  char buffer[4096];
  for (size_t n; pipe && (n = std::fread(buffer, 1, sizeof buffer, pipe)) > 0;)
    text.append(buffer, n);
  if (pipe) ::pclose(pipe);
  return text;
}

TEST(AveragePrecision, IsScikitLearns) {
  constexpr int64_t kRows = 300, kClasses = 12;
  RandomSequence random(random_key(3, RandomPurpose::bootstrap));
  std::vector<float> scores, targets;
  for (int64_t i = 0; i < kRows * kClasses; ++i) {
    // Rounded, so that there are many ties.
    scores.push_back(static_cast<float>(std::round(random.uniform() * 40) / 40));
    targets.push_back(random.bernoulli(0.02 + 0.07 * static_cast<double>(i % kClasses)) ? 1 : 0);
  }
  const fs::path file = fs::temp_directory_path() / ("facet_map_" + std::to_string(::getpid()));
  {
    std::ofstream out(file);
    for (int64_t r = 0; r < kRows; ++r) {
      for (const auto* values : {&scores, &targets})
        for (int64_t c = 0; c < kClasses; ++c)
          out << (*values)[static_cast<size_t>(r * kClasses + c)] << ' ';
      out << '\n';
    }
  }
  const std::string answer = output_of("/usr/bin/python3 -c \"" + std::string(kScript) + "\" " +
                                       file.string() + " 2>/dev/null");
  fs::remove(file);
  if (!fs::exists("/usr/bin/python3") || answer == "missing\n")
    GTEST_SKIP() << "scikit-learn (python3-sklearn) is not installed";
  std::istringstream want(answer);
  const MeanAveragePrecision got = mean_average_precision(Tensor::from(scores, {kRows, kClasses}),
                                                          Tensor::from(targets, {kRows, kClasses}));
  double mean = 0;
  for (int64_t c = 0; c < kClasses; ++c) {
    double value = 0;
    ASSERT_TRUE(want >> value) << c;
    EXPECT_NEAR(got.per_class[static_cast<size_t>(c)], value, 1e-12) << c;
    mean += value / kClasses;
  }
  EXPECT_NEAR(got.mean, mean, 1e-12);
}

}  // namespace
}  // namespace facet
