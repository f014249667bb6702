// The Python versions of CIFAR: Python 2 pickles of a dictionary with lists of numbers and texts
// and one array of bytes. Nothing is ever called, and names but those of NumPy's arrays are
// refused.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace facet {

class Pickle;

struct CifarPickle {
  std::map<std::string, std::vector<int64_t>> numbers;    // "labels", "fine_labels" ...
  std::map<std::string, std::vector<std::string>> texts;  // "label_names", "filenames" ...
  // "data": rows x columns bytes
  int64_t rows = 0, columns = 0;
  bool fortran = false;  // columns lie together
  std::string_view data;
  std::shared_ptr<const Pickle> owner;  // of its bytes
};

// A FileError that names `file` for anything else.
CifarPickle parse_cifar_pickle(std::string bytes, const std::string& file);

}  // namespace facet
