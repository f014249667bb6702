#include "data/listing.h"

#include <algorithm>
#include <cctype>
#include <set>

#include "tensor/file.h"
#include "tensor/text.h"

namespace facet {

namespace fs = std::filesystem;

namespace {

std::string lower(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

bool is_picture_name(const std::string& file_name) {
  static const std::set<std::string> endings = {".jpg", ".jpeg", ".png", ".bmp",  ".gif",
                                                ".ppm", ".pgm",  ".tif", ".tiff", ".webp"};
  return endings.contains(lower(fs::path(file_name).extension().string()));
}

fs::path require_folder(const fs::path& folder) {
  if (!fs::is_directory(folder)) throw FileError("{}: no such folder", folder.string());
  return folder;
}

}  // namespace

std::vector<std::string> parse_lines(std::string_view text, const std::string& file) {
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
  if (const size_t at = text.find('\0'); at != std::string_view::npos)
    throw FileError("{}: expected a list in text, got a NUL at byte {}", file, at);
  std::vector<std::string> lines;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    std::string_view line = text.substr(at, end - at);
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.remove_suffix(1);
    if (!line.empty()) lines.emplace_back(line);
    at = end + 1;
  }
  return lines;
}

std::vector<std::string> read_lines(const fs::path& file) {
  return parse_lines(read_file(file), file.string());
}

std::pair<std::string, std::string> parse_pair(const std::string& line, const std::string& file) {
  const size_t space = line.find(' ');
  if (space == std::string::npos)
    throw FileError("{}: expected 'key value', got '{:.80}'", file, line);
  return {line.substr(0, space), line.substr(space + 1)};
}

std::vector<std::pair<std::string, std::string>> read_pairs(const fs::path& file) {
  std::vector<std::pair<std::string, std::string>> pairs;
  for (const std::string& line : read_lines(file)) pairs.push_back(parse_pair(line, file.string()));
  return pairs;
}

int64_t parse_integer(const std::string& text, const std::string& file, const std::string& what) {
  const auto value = to_number<int64_t>(text);
  if (!value) throw FileError("{}: expected a number for {}, got '{:.40}'", file, what, text);
  return *value;
}

bool is_junk(const std::string& file_name) {
  return file_name.starts_with("._") || file_name == ".DS_Store" || file_name == "Thumbs.db" ||
         file_name == "__MACOSX";
}

std::vector<std::string> list_folders(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(require_folder(folder))) {
    const std::string name = entry.path().filename().string();
    if (entry.is_directory() && !is_junk(name) && !name.starts_with(".")) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<std::string> list_pictures(const fs::path& folder) {
  const size_t prefix = require_folder(folder).string().size() + 1;
  std::vector<std::string> paths;
  fs::recursive_directory_iterator walk(folder, fs::directory_options::follow_directory_symlink);
  constexpr int kDeepest = 16;  // a link to a folder above would never end
  for (const auto end = fs::end(walk); walk != end; ++walk) {
    const std::string name = walk->path().filename().string();
    if (walk.depth() >= kDeepest || is_junk(name)) walk.disable_recursion_pending();
    if (is_junk(name) || !is_picture_name(name) || !walk->is_regular_file()) continue;
    paths.push_back(walk->path().string().substr(prefix));
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

fs::path find_root(const fs::path& folder, std::initializer_list<const char*> inner,
                   const char* file, const char* dataset) {
  require_folder(folder);
  if (fs::exists(folder / file)) return folder;
  for (const char* name : inner)
    if (fs::exists(folder / name / file)) return folder / name;
  throw FileError("{}: expected {} there or in {}/, as {} has it, found neither", folder.string(),
                  file, *inner.begin(), dataset);
}

ClassRanks::ClassRanks(const std::vector<std::string>& classes) {
  for (const std::string& name : classes)
    if (!ranks_.emplace(name, static_cast<int64_t>(ranks_.size())).second)
      throw FileError("class '{}' is listed twice", name);
}

int64_t ClassRanks::at(const std::string& name, const fs::path& where) const {
  const auto found = ranks_.find(name);
  if (found == ranks_.end())
    throw FileError("{}: '{}' is not among the {} classes", where.string(), name, ranks_.size());
  return found->second;
}

bool natural_less(const std::string& a, const std::string& b) {
  const auto digit = [](char c) { return std::isdigit(static_cast<unsigned char>(c)) != 0; };
  const std::string x = lower(a), y = lower(b);
  size_t i = 0, j = 0;
  while (i < x.size() && j < y.size()) {
    if (digit(x[i]) && digit(y[j])) {
      const auto number = [&](const std::string& text, size_t& at) {
        const size_t begin = at;
        while (at < text.size() && digit(text[at])) ++at;
        const size_t first = std::min(text.find_first_not_of('0', begin), at);
        return text.substr(first, at - first);
      };
      const std::string m = number(x, i), n = number(y, j);
      if (m.size() != n.size()) return m.size() < n.size();
      if (m != n) return m < n;
    } else {
      if (x[i] != y[j]) return x[i] < y[j];
      ++i;
      ++j;
    }
  }
  return x.size() - i != y.size() - j ? i == x.size() : a < b;
}

}  // namespace facet
