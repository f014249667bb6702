// MATLAB's files of version 5 (.mat), as far as labels of datasets need them: numbers, texts,
// cells and arrays of structs. Through libmatio.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace facet {

// Each value of an array in column-major order. All errors are FileErrors with file and variable.
class MatFile {
 public:
  explicit MatFile(const std::filesystem::path& file);
  // From memory; `name`: for messages.
  MatFile(std::string_view bytes, std::string name);
  ~MatFile();
  MatFile(const MatFile&) = delete;
  MatFile& operator=(const MatFile&) = delete;

  // With a field: that of every element of an array of structs. Numbers are whole.
  std::vector<int64_t> integers(const std::string& variable, const std::string& field = "") const;
  std::vector<std::string> strings(const std::string& variable,
                                   const std::string& field = "") const;
  std::vector<std::string> variables() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace facet
