// The Python versions of CIFAR: Python 2 pickles of a dictionary with lists of numbers and texts
// and one array of bytes. Only the opcodes that such files consist of are known; nothing is ever
// called.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace facet {

struct CifarPickle {
  std::map<std::string, std::vector<int64_t>> numbers;    // "labels", "fine_labels" ...
  std::map<std::string, std::vector<std::string>> texts;  // "label_names", "filenames" ...
  // "data": rows x columns bytes
  int64_t rows = 0, columns = 0;
  bool fortran = false;  // columns lie together
  std::string_view data;
};

// Views into `bytes`. A FileError that names `file` for anything else.
CifarPickle parse_cifar_pickle(std::string_view bytes, const std::string& file);

}  // namespace facet
