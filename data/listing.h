// What the readers of datasets share: list files, folders of pictures.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "tensor/check.h"

namespace facet {

// The lines of a list file as bytes, in whatever encoding: without line ends (LF or CRLF), a byte
// order mark and empty lines. A FileError where there is a NUL: that is no list.
std::vector<std::string> parse_lines(std::string_view text, const std::string& file);
std::vector<std::string> read_lines(const std::filesystem::path& file);
// "key value with spaces": cut at the first space.
std::pair<std::string, std::string> parse_pair(const std::string& line, const std::string& file);
std::vector<std::pair<std::string, std::string>> read_pairs(const std::filesystem::path& file);
// A whole number of a list; `what` as in "the label of a.jpg".
int64_t parse_integer(const std::string& text, const std::string& file, const std::string& what);

// What systems leave in folders: ._*, .DS_Store, Thumbs.db, __MACOSX.
bool is_junk(const std::string& file_name);
// Folders below one, and pictures at any depth below one (relative, with '/'), in byte order.
// Symbolic links are followed. A picture is what is named as one (.gif and torchvision's .jpg,
// .jpeg, .png, .ppm, .bmp, .pgm, .tif, .tiff, .webp in either case): what a file really is, and
// whether it can be decoded, shows when it is read.
std::vector<std::string> list_folders(const std::filesystem::path& folder);
std::vector<std::string> list_pictures(const std::filesystem::path& folder);

// The folder itself, or the one named `inner` in it, whichever holds `file`. A FileError that says
// what `dataset` should look like.
std::filesystem::path find_root(const std::filesystem::path& folder,
                                std::initializer_list<const char*> inner, const char* file,
                                const char* dataset);

// Positions of class names.
class ClassRanks {
 public:
  explicit ClassRanks(const std::vector<std::string>& classes);
  // `where`: the file that a message names.
  int64_t at(const std::string& name, const std::filesystem::path& where) const;

 private:
  std::unordered_map<std::string, int64_t> ranks_;
};

// timm's order of names: without case, runs of digits as numbers.
bool natural_less(const std::string& a, const std::string& b);

}  // namespace facet
