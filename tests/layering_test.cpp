// Folders depend on each other one way only. An #include that points upwards is named.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>

namespace {

namespace fs = std::filesystem;

const std::set<std::string> kLibraries = {"tensor", "autograd", "nn",  "cuda",
                                          "optim",  "data",     "ssl", "metrics"};

// What a folder may include besides itself.
const std::map<std::string, std::set<std::string>> kAllowed = {
    {"tensor", {}},
    {"autograd", {"tensor"}},
    {"nn", {"autograd", "tensor"}},
    {"cuda", {"tensor"}},
    {"optim", {"autograd", "tensor"}},
    {"data", {"tensor"}},
    {"metrics", {"optim", "tensor"}},
    {"ssl", {"nn", "autograd", "optim", "data", "tensor"}},
    {"apps", kLibraries},
    {"tests", kLibraries},
};

// The includes in `text` that a file of `folder` must not have.
std::vector<std::string> upward_includes(const std::string& folder, const std::string& text) {
  static const std::regex include(R"re(^\s*#\s*include\s*[<"]([^/>"]+)/[^>"]*[>"])re");
  std::vector<std::string> found;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::smatch match;
    if (!std::regex_search(line, match, include)) continue;
    const std::string target = match[1];
    const bool is_program = target == "apps" || target == "tests";
    if (!is_program && !kLibraries.contains(target)) continue;  // another project's
    if (target == folder || kAllowed.at(folder).contains(target)) continue;
    if (folder == "tests" && is_program) continue;
    // The table of operations is what `facet bench ops` times.
    if (folder == "apps" && line.find("\"tests/op_case.h\"") != std::string::npos) continue;
    found.push_back(line);
  }
  return found;
}

TEST(Layering, NoIncludePointsUpwards) {
  const fs::path root = FACET_SOURCE_DIR;
  const std::set<std::string> extensions = {".h", ".cpp", ".def", ".cu", ".cuh"};
  int files = 0;
  for (const auto& [folder, allowed] : kAllowed) {
    if (!fs::exists(root / folder)) continue;
    for (const auto& entry : fs::recursive_directory_iterator(root / folder)) {
      if (!entry.is_regular_file() || !extensions.contains(entry.path().extension())) continue;
      std::ifstream file(entry.path());
      const std::string text((std::istreambuf_iterator<char>(file)), {});
      ++files;
      for (const std::string& line : upward_includes(folder, text))
        ADD_FAILURE() << fs::relative(entry.path(), root).string() << ": " << line;
    }
  }
  EXPECT_GT(files, 40);
}

TEST(Layering, FindsAnUpwardInclude) {
  EXPECT_EQ(upward_includes("tensor", "#include \"autograd/ops.h\"\n").size(), 1u);
  EXPECT_EQ(upward_includes("optim", "  #  include <nn/module.h>\n").size(), 1u);
  EXPECT_EQ(upward_includes("apps", "#include \"tests/generators.h\"\n").size(), 1u);
  EXPECT_EQ(upward_includes("apps", "#include \"tests/op_case.h\"\n").size(), 0u);
  EXPECT_EQ(upward_includes("ssl", "#include \"tests/op_case.h\"\n").size(), 1u);
  EXPECT_EQ(upward_includes("ssl",
                            "#include \"nn/module.h\"\n#include <vector>\n"
                            "#include <oneapi/dnnl/dnnl.hpp>\n")
                .size(),
            0u);
}

}  // namespace
