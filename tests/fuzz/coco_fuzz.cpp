// The streaming reader takes what a parser of the whole document takes, and finds the same labels.
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "data/readers.h"
#include "tests/fuzz/fuzz.h"

namespace {

using nlohmann::json;

// Labels by picture id, straight from the document.
std::map<int64_t, std::set<int64_t>> reference(const json& document) {
  std::map<int64_t, std::set<int64_t>> labels;
  for (const json& image : document["images"]) labels[image["id"]];
  for (const json& note : document["annotations"])
    labels[note["image_id"]].insert(note["category_id"].get<int64_t>());
  return labels;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace facet;
  CocoImages found;
  bool accepted = false;
  fuzz::expect_value_or_file_error([&] {
    found = parse_coco(fuzz::text(data, size), "fuzz", "", Part::train, true);
    accepted = true;
  });
  if (!accepted) return 0;
  const json document = json::parse(data, data + size, nullptr, false);
  fuzz::require(!document.is_discarded());
  for (const FileEntry& entry : found.entries)
    for (const int32_t label : entry.labels)
      fuzz::require(label >= 0 && label < static_cast<int32_t>(found.classes.size()));
  std::map<int64_t, std::set<int64_t>> want;
  try {
    want = reference(document);
  } catch (const json::exception&) {
    return 0;  // odd keys that the streaming reader passes over
  }
  if (want.size() != found.entries.size()) return 0;  // keys that come twice
  size_t i = 0;
  for (const auto& [id, categories] : want)
    fuzz::require(found.entries[i++].labels.size() == categories.size());
  return 0;
}
