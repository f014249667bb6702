// List files: lines without ends, blanks at the end or NUL; what is printed again is read the same.
#include "data/listing.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace facet;
  fuzz::expect_value_or_file_error([&] {
    const std::vector<std::string> lines = parse_lines(fuzz::text(data, size), "fuzz");
    std::string again;
    for (const std::string& line : lines) {
      fuzz::require(!line.empty() &&
                    line.find_first_of(std::string("\n\0", 2)) == std::string::npos);
      again += line + '\n';
    }
    if (!again.starts_with("\xef\xbb\xbf")) fuzz::require(parse_lines(again, "fuzz") == lines);
    for (size_t i = 0; i < lines.size() && i < 100; ++i)
      fuzz::expect_value_or_file_error([&] {
        const auto [key, value] = parse_pair(lines[i], "fuzz");
        parse_integer(value, "fuzz", key);
      });
    for (size_t i = 0; i + 1 < lines.size() && i < 100; ++i)
      fuzz::require(
          !(natural_less(lines[i], lines[i + 1]) && natural_less(lines[i + 1], lines[i])));
  });
  return 0;
}
