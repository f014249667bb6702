// Decoding against what Pillow made of the same files (tests/golden/pictures/make.py), windows
// against the whole, and files that are not what they claim.
#include "data/picture.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "data/pipeline.h"
#include "data/sample.h"
#include "tensor/check.h"
#include "tensor/file.h"
#include "tests/folder.h"

namespace facet {
namespace {

namespace fs = std::filesystem;

const fs::path kFolder = fs::path(FACET_SOURCE_DIR) / "tests/golden/pictures";

std::vector<uint8_t> bytes_of(const std::string& name) {
  const std::string text = read_file(kFolder / name);
  return {text.begin(), text.end()};
}

Image golden(const std::string& name) {
  const std::string text = read_file(kFolder / (name + ".ppm"));
  Image image;
  int begin = 0;
  EXPECT_EQ(std::sscanf(text.c_str(), "P6 %d %d 255%n", &image.width, &image.height, &begin), 2);
  image.pixels.assign(text.begin() + begin + 1, text.end());
  return image;
}

const std::vector<std::string>& names() {
  static const auto* const all = [] {
    auto* found = new std::vector<std::string>;
    for (const auto& entry : fs::directory_iterator(kFolder))
      if (entry.path().extension() == ".ppm") found->push_back(entry.path().stem().string());
    return found;
  }();
  return *all;
}

std::string message_of(std::vector<uint8_t> bytes) {
  return test::error_of<FileError>([&] { EncodedPicture(std::move(bytes), "some.jpg").decode(); });
}

TEST(Picture, IsWhatPillowSees) {
  ASSERT_EQ(names().size(), 25u);
  for (const std::string& name : names()) {
    const Image got = EncodedPicture(bytes_of(name), name).decode(), want = golden(name);
    ASSERT_EQ(got.height, want.height) << name;
    ASSERT_EQ(got.width, want.width) << name;
    EXPECT_EQ(got.pixels, want.pixels) << name;
  }
}

TEST(Picture, WindowsArePartsOfTheWhole) {
  for (const std::string& name : names()) {
    const EncodedPicture picture(bytes_of(name), name);
    const Image whole = picture.decode();
    const int h = picture.height(), w = picture.width();
    for (const Rectangle& r : {Rectangle{0, 0, 1, 1},
                               {h - 1, w - 1, 1, 1},
                               {5, 17, 20, 30},
                               {16, 16, 16, 16},
                               {1, 31, 2, 3},
                               {0, 20, h, 7},
                               {20, 0, 3, w}})
      EXPECT_EQ(picture.decode(r).pixels, crop(whole, r.top, r.left, r.height, r.width).pixels)
          << name << " " << r.top << " " << r.left;
  }
}

// Views of the part that they share are those of the whole picture.
TEST(Picture, OnlyWhatViewsShowIsDecoded) {
  const EncodedPicture picture(bytes_of("420.jpg"), "420.jpg");
  const Image whole = picture.decode();
  const Pipeline pipeline = moco_v2_pipeline(16, kImagenetNormalization, .05);
  bool smaller = false;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    std::vector<ViewPlan> plans;
    for (uint64_t view = 0; view < 2; ++view)
      plans.push_back(pipeline.plan(whole.height, whole.width, RandomSequence({seed, view})));
    const std::vector<ViewPlan> of_whole = plans;
    Image part;
    const uint8_t* const pixels = Sample(picture).shown(plans, part);
    smaller |= part.height < whole.height && part.width < whole.width;
    for (size_t i = 0; i < plans.size(); ++i)
      EXPECT_EQ(make_view(plans[i], pixels).pixels,
                make_view(of_whole[i], whole.pixels.data()).pixels);
  }
  EXPECT_TRUE(smaller);
}

TEST(Picture, KnowsTheKindByContent) {
  EXPECT_EQ(EncodedPicture(bytes_of("rgb.png"), "a.jpg").kind(), PictureKind::png);
  EXPECT_EQ(EncodedPicture(bytes_of("grey.gif"), "a.jpg").kind(), PictureKind::gif);
  EXPECT_EQ(EncodedPicture(bytes_of("rgb.bmp"), "a.jpg").kind(), PictureKind::bmp);
  EXPECT_NE(message_of({'R', 'I', 'F', 'F'}).find("some.jpg: expected a JPEG, PNG, GIF or BMP"),
            std::string::npos);
  EXPECT_NE(message_of({'I', 'I', '*', 0}).find("4 bytes of TIFF"), std::string::npos);
  EXPECT_NE(message_of({}).find("got 0 bytes"), std::string::npos);
}

TEST(Picture, TruncatedFilesAreErrors) {
  for (const std::string name :
       {"420.jpg", "progressive.jpg", "rgb.png", "interlaced.png", "palette.gif", "rgb.bmp"}) {
    const std::vector<uint8_t> bytes = bytes_of(name);
    for (const size_t length : {bytes.size() / 2, bytes.size() / 5, size_t{20}}) {
      const std::string message = message_of({bytes.begin(), bytes.begin() + long(length)});
      EXPECT_NE(message.find("some.jpg: damaged"), std::string::npos) << name << " " << length;
    }
  }
}

// A header may promise more than memory holds.
TEST(Picture, SizesAreCheckedBeforeAnythingIsDecoded) {
  std::vector<uint8_t> png = bytes_of("rgb.png");
  for (const size_t at : {16u, 20u}) png[at + 2] = 0x30;
  EXPECT_NE(message_of(png).find("at most 100000000"), std::string::npos) << message_of(png);
  std::vector<uint8_t> jpeg = bytes_of("grey.jpg");
  for (size_t i = 0; i + 8 < jpeg.size(); ++i)
    if (jpeg[i] == 0xff && jpeg[i + 1] == 0xc0)
      for (const size_t at : {i + 5, i + 6, i + 7, i + 8}) jpeg[at] = 0xea;
  EXPECT_NE(message_of(jpeg).find("at most 100000000"), std::string::npos) << message_of(jpeg);
}

// Every scan of a progressive file costs a pass over the picture.
TEST(Picture, EndlessScansAreRefused) {
  std::vector<uint8_t> jpeg = bytes_of("progressive.jpg");
  size_t begin = jpeg.size() - 2, end = begin;  // the last scan, up to the end marker
  while (!(jpeg[begin] == 0xff && jpeg[begin + 1] == 0xda)) --begin;
  const std::vector<uint8_t> scan(jpeg.begin() + long(begin), jpeg.begin() + long(end));
  int scans = 0;
  for (size_t i = 0; i < end; ++i) scans += jpeg[i] == 0xff && jpeg[i + 1] == 0xda;
  for (; scans < 100; ++scans) jpeg.insert(jpeg.begin() + long(end), scan.begin(), scan.end());
  EXPECT_NO_THROW(EncodedPicture(jpeg, "some.jpg").decode());
  jpeg.insert(jpeg.begin() + long(end), scan.begin(), scan.end());
  EXPECT_NE(message_of(jpeg).find("more than 100 scans"), std::string::npos) << message_of(jpeg);
}

// What Pillow forgives is forgiven, and told.
TEST(Picture, WarningsAreCounted) {
  const auto warnings = [](const std::vector<uint8_t>& bytes) {
    std::string text;
    const EncodedPicture picture(bytes, "some.jpg");
    picture.decode({0, 0, picture.height(), picture.width()}, &text);
    return text;
  };
  std::vector<uint8_t> jpeg = bytes_of("420.jpg");
  EXPECT_EQ(warnings(jpeg), "");
  EXPECT_NE(warnings(bytes_of("grey16.png")).find("16 bits of grey"), std::string::npos);
  size_t scan = 0;  // bytes that belong to no segment
  while (!(jpeg[scan] == 0xff && jpeg[scan + 1] == 0xda)) ++scan;
  jpeg.insert(jpeg.begin() + long(scan), {7, 7, 7});
  EXPECT_NE(warnings(jpeg).find("some.jpg: 1 warnings: Corrupt JPEG data: 3 extraneous bytes"),
            std::string::npos)
      << warnings(jpeg);
}

TEST(Picture, ABannerIsLeftOut) {
  for (const std::string name : {"420.jpg", "rgb.png"}) {
    const Image whole = golden(name);
    const EncodedPicture picture(bytes_of(name), name, 20);
    EXPECT_EQ(picture.height(), whole.height - 20);
    EXPECT_EQ(picture.decode().pixels, crop(whole, 0, 0, whole.height - 20, whole.width).pixels);
  }
  EXPECT_THROW(EncodedPicture(bytes_of("rgb.png"), "a", golden("rgb.png").height), FileError);
}

// Damaged bytes give an error or a picture of the promised size, nothing else.
TEST(Picture, DamagedBytesDoNoHarm) {
  for (const std::string& name : names()) {
    const std::vector<uint8_t> bytes = bytes_of(name);
    uint64_t state = 1;
    for (int i = 0; i < 60; ++i) {
      std::vector<uint8_t> damaged = bytes;
      for (int k = 0; k < 3; ++k) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        damaged[12 + (state >> 33) % (bytes.size() - 12)] = static_cast<uint8_t>(state >> 25);
      }
      try {
        const EncodedPicture picture(damaged, name);
        if (int64_t{picture.height()} * picture.width() > 1'000'000) continue;
        const Image image = picture.decode();
        EXPECT_EQ(image.pixels.size(), size_t(image.height) * size_t(image.width) * 3);
      } catch (const FileError&) {
      }
    }
  }
}

}  // namespace
}  // namespace facet
