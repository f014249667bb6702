#pragma once

#include <algorithm>
#include <charconv>
#include <numeric>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace facet {

// A character of Unicode at the end of a text in UTF-8.
inline void append_utf8(std::string& to, uint32_t code) {
  if (code < 0x80) {
    to += static_cast<char>(code);
    return;
  }
  const int extra = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
  to += static_cast<char>((0xF00 >> extra & 0xFF) | (code >> (6 * extra)));
  for (int i = extra - 1; i >= 0; --i) to += static_cast<char>(0x80 | (code >> (6 * i) & 0x3F));
}

// How many characters of UTF-8.
inline size_t characters(const std::string& text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

// "a, b, ...": the first of many words.
inline std::string some_of(const std::vector<std::string>& all, size_t most) {
  std::string text;
  for (size_t i = 0; i < std::min(all.size(), most); ++i) text += (i ? ", " : "") + all[i];
  return all.size() > most ? text + ", ..." : text;
}

// The names of a list's rows, in its order.
template <typename Rows>
std::vector<std::string> names_of(const Rows& rows) {
  std::vector<std::string> names;
  for (const auto& row : rows) names.emplace_back(row.name);
  return names;
}

// The words of "a,b,c"; none of an empty text.
inline std::vector<std::string> split_list(const std::string& text, char separator = ',') {
  std::vector<std::string> words;
  for (size_t at = 0; at <= text.size() && !text.empty();) {
    const size_t end = std::min(text.find(separator, at), text.size());
    words.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return words;
}

// The whole text as a number; none where it is anything else.
template <typename T>
std::optional<T> to_number(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// Levenshtein distance.
inline size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1])});
      diagonal = above;
    }
  }
  return row[b.size()];
}

// "; did you mean 'X'?" for the nearest known word, or nothing when none is near.
inline std::string did_you_mean(const std::string& word, const std::vector<std::string>& known) {
  const auto nearest =
      std::min_element(known.begin(), known.end(), [&](const auto& a, const auto& b) {
        return edit_distance(word, a) < edit_distance(word, b);
      });
  if (nearest == known.end() ||
      edit_distance(word, *nearest) > std::max<size_t>(2, word.size() / 3))
    return "";
  return "; did you mean '" + *nearest + "'?";
}

}  // namespace facet
