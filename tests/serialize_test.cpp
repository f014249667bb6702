// safetensors and atomic files: round trips, every way in which a file can be wrong, and that what
// was there before survives.
#include "tensor/serialize.h"

#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <cstring>
#include <limits>

#include "tensor/file.h"
#include "tests/folder.h"

namespace facet {
namespace {

namespace fs = std::filesystem;

class SerializeTest : public test::FolderTest {
 protected:
  fs::path file(const char* name = "x.safetensors") const { return folder_ / name; }
  // A file from a header and as many buffer bytes.
  fs::path write_raw(const std::string& header, size_t buffer, uint64_t length = ~0ull) {
    if (length == ~0ull) length = header.size();
    std::string content(8, '\0');
    std::memcpy(content.data(), &length, 8);
    write_file(file(), content + header + std::string(buffer, '\1'));
    return file();
  }
  void expect_refused(const std::string& header, size_t buffer, const std::string& words) {
    write_raw(header, buffer);
    expect_load_fails(words + " <- " + header, words);
  }
  void expect_load_fails(const std::string& what, const std::string& words) {
    SCOPED_TRACE(what);
    test::expect_parts(test::error_of<FileError>([&] { load_safetensors(file()); }),
                       {words.c_str(), "x.safetensors"});
  }
};

void expect_same(const Tensor& a, const Tensor& b) {
  ASSERT_EQ(a.shape(), b.shape());
  ASSERT_EQ(a.dtype(), b.dtype());
  EXPECT_EQ(std::memcmp(a.raw(), b.raw(), a.bytes()), 0);
}

TEST_F(SerializeTest, EveryTypeAndShapeComesBack) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<NamedTensor> tensors = {
      {"weight", Tensor::from<float>({1.5f, nan, -0.0f, 1e-40f})},
      {"half", Tensor::from<float>({1.0f, 2.0f}).cast(DType::bf16)},
      {"double", Tensor::from<double>({0.1})},
      {"counts", Tensor::from<int64_t>({1, -2, int64_t{1} << 60})},
      {"small", Tensor::from<int32_t>({7})},
      {"pixels", Tensor::from<uint8_t>({1, 2, 255})},
      {"scalar", Tensor::full({}, 3.0, DType::i64)},
      {"empty", Tensor::zeros({3, 0, 2})},
      {"\xc3\xa9t\xc3\xa9 \"quoted\"", Tensor::full({2, 3}, 4.0)}};
  save_safetensors(file(), tensors, {{"step", "12"}});
  const TensorFile loaded = load_safetensors(file());
  EXPECT_EQ(loaded.metadata.at("format"), "pt");
  EXPECT_EQ(loaded.metadata.at("step"), "12");
  ASSERT_EQ(loaded.tensors.size(), tensors.size());
  for (const auto& [name, value] : tensors) {
    const auto found = std::find_if(loaded.tensors.begin(), loaded.tensors.end(),
                                    [&, n = name](const NamedTensor& t) { return t.name == n; });
    ASSERT_NE(found, loaded.tensors.end()) << name;
    expect_same(found->value, value);
  }
}

TEST_F(SerializeTest, TheSameTensorsGiveTheSameBytesInAnyOrder) {
  const NamedTensor a{"a", Tensor::full({5}, 1.0)}, b{"b", Tensor::full({3}, 2.0, DType::u8)};
  save_safetensors(file("1"), std::vector{a, b});
  save_safetensors(file("2"), std::vector{b, a});
  EXPECT_EQ(read_file(file("1")), read_file(file("2")));
  uint64_t header = 0;
  std::memcpy(&header, read_file(file("1")).data(), 8);
  EXPECT_EQ((header + 8) % 64, 0u);
  EXPECT_THROW(save_safetensors(file("3"), std::vector{a, a}), Error);
}

TEST_F(SerializeTest, ForeignTypesAreWidened) {
  const std::string header =
      R"({"h":{"dtype":"F16","shape":[4],"data_offsets":[0,8]},)"
      R"("i":{"dtype":"I8","shape":[2],"data_offsets":[8,10]},)"
      R"("b":{"dtype":"BOOL","shape":[1],"data_offsets":[10,11]},)"
      R"("u":{"dtype":"U16","shape":[1],"data_offsets":[11,13],"extra":1}}   )";
  const uint16_t half[] = {0x3C00, 0xC000, 0x0001, 0x7C00};  // 1, -2, 2^-24, infinity
  const uint8_t rest[] = {0xFF, 0x05, 0x01, 0xFF, 0xFF};
  std::string content(8, '\0');
  const uint64_t length = header.size();
  std::memcpy(content.data(), &length, 8);
  content += header;
  content.append(reinterpret_cast<const char*>(half), 8);
  content.append(reinterpret_cast<const char*>(rest), 5);
  write_file(file(), content);
  const TensorFile loaded = load_safetensors(file());
  ASSERT_EQ(loaded.tensors.size(), 4u);
  EXPECT_EQ(loaded.tensors[0].value.to_vector<float>(),
            (std::vector<float>{1.0f, -2.0f, 0x1p-24f, std::numeric_limits<float>::infinity()}));
  EXPECT_EQ(loaded.tensors[1].value.to_vector<int32_t>(), (std::vector<int32_t>{-1, 5}));
  EXPECT_EQ(loaded.tensors[2].value.to_vector<uint8_t>(), (std::vector<uint8_t>{1}));
  EXPECT_EQ(loaded.tensors[3].value.to_vector<int32_t>(), (std::vector<int32_t>{65535}));
}

TEST_F(SerializeTest, EveryWrongFileIsRefusedInOneLine) {
  const std::string good = R"({"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  EXPECT_NO_THROW(load_safetensors(write_raw(good, 8)));
  expect_refused(good, 7, "expected a file of");
  expect_refused(good, 9, "expected a file of");
  write_raw(good, 0, good.size() + 1);
  expect_load_fails("header longer than the file", "truncated");
  write_raw(good, 0, 100'000'001);
  expect_load_fails("huge header", "at most");
  write_file(file(), "short");
  expect_load_fails("5 bytes", "at least 8 bytes");
  expect_refused(" " + good, 8, "not a JSON object");
  expect_refused(good + "\n", 8, "not a JSON object");
  expect_refused("{\"t\":}", 0, "not valid JSON");
  expect_refused("{\"t\xff\":1}", 0, "not valid JSON");
  const auto entry = [](const std::string& dtype, const std::string& shape,
                        const std::string& offsets) {
    return R"({"t":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets +
           "}}";
  };
  expect_refused(entry("\"F32\"", "[3]", "[0,8]"), 8, "needs 12 bytes");
  expect_refused(entry("\"F32\"", "[2]", "[4,12]"), 12, "begins at byte 4");
  expect_refused(entry("\"F32\"", "[2]", "[8,0]"), 8, "ends before it begins");
  expect_refused(entry("\"F32\"", "[-2]", "[0,8]"), 8, "is not a size");
  expect_refused(entry("\"F32\"", "[2.0]", "[0,8]"), 8, "is not a size");
  expect_refused(entry("\"F32\"", "[4611686018427387904,4]", "[0,0]"), 0, "overflows");
  expect_refused(entry("\"F32\"", "[0,9223372036854775807,9]", "[0,0]"), 0, "overflows");
  expect_refused(entry("\"F32\"", "[1,1,1,1,1,2]", "[0,8]"), 8, "6 axes");
  expect_refused(entry("\"F8_E4M3\"", "[8]", "[0,8]"), 8, "not supported");
  expect_refused(entry("7", "[2]", "[0,8]"), 8, "not a string");
  expect_refused(R"({"t":{"dtype":"F32","shape":[2]}})", 8, "expected dtype, shape");
  expect_refused(R"({"t":[1]})", 8, "expected dtype, shape");
  expect_refused(R"({"__metadata__":{"a":1}})", 0, "not a string");
  expect_refused(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                 R"("b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})",
                 6, "expected 4");
  expect_refused(R"({"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                 R"("t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
                 8, "twice");
  expect_refused(R"({"a":[[[[[[[[[[1]]]]]]]]]]})", 0, "nests deeper");
  EXPECT_THROW(load_safetensors(file("missing")), FileError);
  EXPECT_THROW(load_safetensors(folder_), FileError);
}

TEST_F(SerializeTest, EveryFlippedBitInTheBufferIsNoticed) {
  save_safetensors(file(), std::vector{NamedTensor{"t", Tensor::full({3}, 1.0)},
                                       NamedTensor{"u", Tensor::full({3}, 1.0, DType::u8)}});
  const std::string good = read_file(file());
  for (size_t byte = good.size() - 15; byte < good.size(); ++byte)
    for (int bit = 0; bit < 8; ++bit) {
      std::string bad = good;
      bad[byte] = static_cast<char>(bad[byte] ^ (1 << bit));
      write_file(file(), bad);
      expect_load_fails("flipped bit", "damaged");
    }
}

TEST_F(SerializeTest, EveryTruncationIsRefused) {
  save_safetensors(file(), std::vector{NamedTensor{"t", Tensor::full({3}, 1.0)}});
  const std::string good = read_file(file());
  for (size_t length = good.size(); length-- > 0;) {
    fs::resize_file(file(), length);
    EXPECT_THROW(load_safetensors(file()), FileError) << length;
  }
}

TEST_F(SerializeTest, ConvolutionsArePermutedOnTheWay) {
  // (Cout 1, kh 1, kw 2, Cin 3) <-> (1, 3, 1, 2)
  const NamedTensor w{"w", Tensor::from<float>({0, 1, 2, 3, 4, 5}).reshape({1, 1, 2, 3})};
  const NamedTensor b{"b", Tensor::from<float>({9})};
  const auto there = to_file_layout(std::vector{w, b});
  EXPECT_EQ(there[0].value.shape(), (Shape{1, 3, 1, 2}));
  EXPECT_EQ(there[0].value.to_vector<float>(), (std::vector<float>{0, 3, 1, 4, 2, 5}));
  const auto back = from_file_layout(there);
  expect_same(back[0].value, w.value);
  expect_same(back[1].value, b.value);
}

TEST_F(SerializeTest, AnUncommittedFileLeavesTheOldOne) {
  write_file(file(), "old");
  {
    AtomicFile next(file(), 100);
    next.write("half of the ne");
  }
  EXPECT_EQ(read_file(file()), "old");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 1);
  ::chmod(file().c_str(), 0640);
  write_file(file(), "new");
  EXPECT_EQ(read_file(file()), "new");
  struct stat info;
  ASSERT_EQ(::stat(file().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0640u);
  EXPECT_THROW(write_file(folder_ / "no" / "such", "x"), FileError);
}

TEST_F(SerializeTest, AFullDiskLeavesTheOldFile) {
  // A file size limit stands in for the full disk.
  save_safetensors(file(), std::vector{NamedTensor{"t", Tensor::full({4}, 1.0)}});
  const std::string before = read_file(file());
  struct rlimit old;
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old), 0);
  std::signal(SIGXFSZ, SIG_IGN);
  const struct rlimit low { 4096, old.rlim_max };
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &low), 0);
  EXPECT_THROW(save_safetensors(file(), std::vector{NamedTensor{"t", Tensor::full({4096}, 1.0)}}),
               FileError);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &old), 0);
  EXPECT_EQ(read_file(file()), before);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 1);
}

TEST_F(SerializeTest, OnlyTemporariesOfDeadProcessesAreRemoved) {
  write_file(folder_ / ".a.999999999.0.tmp", "stale");
  write_file(folder_ / fmt::format(".a.{}.0.tmp", ::getpid()), "mine");
  write_file(folder_ / "keep.tmp", "other");
  remove_stale_temporaries(folder_);
  EXPECT_FALSE(fs::exists(folder_ / ".a.999999999.0.tmp"));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 2);
}

TEST_F(SerializeTest, ALogClosesALineThatACrashCutShort) {
  write_file(file("log"), "{\"step\":1}\n{\"st");
  {
    LineLog log(file("log"));
    log.write("{\"step\":2}");
  }
  EXPECT_EQ(read_file(file("log")), "{\"step\":1}\n{\"st\n{\"step\":2}\n");
}

}  // namespace
}  // namespace facet
