// facet stays small enough to be read: 800 lines a source file at most, 45,250 in all without the
// tests, and 18,250 of tests. A tenth of the sources is the emulator that runs the kernels without
// a GPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>

namespace {

namespace fs = std::filesystem;

constexpr int64_t kFileLimit = 800;
constexpr int64_t kTotalLimit = 45'250, kTestsLimit = 18'250;

TEST(LineBudget, FilesAndTotal) {
  const fs::path root = FACET_SOURCE_DIR;
  const std::set<std::string> extensions = {".h", ".cpp", ".def", ".cu", ".cuh"};
  int64_t total = 0, tests = 0;
  for (const char* folder :
       {"tensor", "autograd", "nn", "cuda", "optim", "data", "ssl", "metrics", "apps", "tests"}) {
    if (!fs::exists(root / folder)) continue;
    for (const auto& entry : fs::recursive_directory_iterator(root / folder)) {
      if (!entry.is_regular_file() || !extensions.contains(entry.path().extension())) continue;
      std::ifstream file(entry.path());
      const int64_t lines =
          std::count(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>(), '\n');
      EXPECT_LE(lines, kFileLimit) << fs::relative(entry.path(), root).string();
      (std::string(folder) == "tests" ? tests : total) += lines;
    }
  }
  EXPECT_LE(total, kTotalLimit);
  EXPECT_LE(tests, kTestsLimit);
  EXPECT_GT(total, 1000) << "the sources were not found in " << root;
  RecordProperty("lines", std::to_string(total));
}

}  // namespace
