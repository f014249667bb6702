// MATLAB's files of version 5 (.mat), as far as labels of datasets need them: numbers, texts,
// cells and arrays of structs; plain and compressed. MathWorks, "MAT-File Format".
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace facet {

// Each value of an array in column-major order. All errors are FileErrors with file and variable.
class MatFile {
 public:
  explicit MatFile(const std::filesystem::path& file);
  // `name`: for messages.
  MatFile(std::string bytes, std::string name);

  // With a field: that of every element of an array of structs. Numbers are whole.
  std::vector<int64_t> integers(const std::string& variable, const std::string& field = "") const;
  std::vector<std::string> strings(const std::string& variable,
                                   const std::string& field = "") const;

 private:
  struct Array;

  template <typename Use>
  void each(const std::string& variable, const std::string& field, const Use& use) const;

  std::string name_;
  std::map<std::string, std::string> variables_;  // name to its miMATRIX element's bytes
};

}  // namespace facet
