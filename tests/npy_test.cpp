// .npy files: round trips, files as NumPy writes them, and every way in which one can be wrong.
#include "tensor/npy.h"

#include <cstring>

#include "tensor/file.h"
#include "tests/folder.h"

namespace facet {
namespace {

namespace fs = std::filesystem;

class NpyTest : public test::FolderTest {
 protected:
  fs::path file() const { return folder_ / "x.npy"; }

  static std::string with_header(const std::string& header, const std::string& data,
                                 int version = 1) {
    std::string content = "\x93NUMPY";
    content += static_cast<char>(version);
    content += '\0';
    for (int byte = 0; byte < (version == 1 ? 2 : 4); ++byte)
      content += static_cast<char>(header.size() >> (8 * byte) & 255);
    return content + header + data;
  }
  static std::string dictionary(const std::string& descr, const std::string& shape,
                                const std::string& fortran = "False") {
    return "{'descr': '" + descr + "', 'fortran_order': " + fortran + ", 'shape': " + shape +
           ", }\n";
  }
  Tensor load(const std::string& content) {
    write_file(file(), content);
    return load_npy(file());
  }
  void expect_refused(const std::string& content, const std::string& words) {
    SCOPED_TRACE(content);
    const std::string message = test::error_of<FileError>([&] { load(content); });
    EXPECT_NE(message.find(words), std::string::npos) << message;
    EXPECT_EQ(message.rfind(file().string() + ": ", 0), 0u) << message;
  }
};

template <typename T>
std::string bytes_of(std::initializer_list<T> values) {
  std::string bytes(values.size() * sizeof(T), '\0');
  std::memcpy(bytes.data(), values.begin(), bytes.size());
  return bytes;
}

TEST_F(NpyTest, WhatIsSavedComesBack) {
  const Tensor tensors[] = {Tensor::from<float>({1.5f, -0.0f, 1e-40f}),
                            Tensor::from(std::vector<double>{0.1, 2, 3, 4, 5, 6}, {3, 1, 2}),
                            Tensor::from<int64_t>({int64_t{1} << 60, -2}),
                            Tensor::from<int32_t>({7, -7}),
                            Tensor::from<uint8_t>({1, 2, 255}),
                            Tensor::full({}, 3.0, DType::f64),
                            Tensor::zeros({3, 0, 2}),
                            Tensor::full({2, 3, 1, 2, 2}, 4.0)};
  for (const Tensor& t : tensors) {
    save_npy(file(), t);
    const Tensor back = load_npy(file());
    ASSERT_EQ(back.str(), t.str());
    EXPECT_EQ(back.to_vector<double>(), t.to_vector<double>());
    EXPECT_EQ((fs::file_size(file()) - t.bytes()) % 64, 0u);
  }
  EXPECT_THROW(save_npy(file(), Tensor::zeros({2}, DType::bf16)), Error);
}

TEST_F(NpyTest, EveryElementTypeIsReadOrWidened) {
  const auto expect = [&](const std::string& descr, const std::string& data, DType dtype,
                          const std::vector<double>& values) {
    const Tensor t = load(with_header(dictionary(descr, "(2,)"), data));
    EXPECT_EQ(t.dtype(), dtype) << descr;
    EXPECT_EQ(t.to_vector<double>(), values) << descr;
  };
  expect("<f2", bytes_of<uint16_t>({0x3c00, 0xc500}), DType::f32, {1, -5});
  expect("<f4", bytes_of<float>({1, -5}), DType::f32, {1, -5});
  expect("<f8", bytes_of<double>({1, -5}), DType::f64, {1, -5});
  expect("|i1", bytes_of<int8_t>({1, -5}), DType::i32, {1, -5});
  expect("<i2", bytes_of<int16_t>({1, -5}), DType::i32, {1, -5});
  expect("<i4", bytes_of<int32_t>({1, -5}), DType::i32, {1, -5});
  expect("=i8", bytes_of<int64_t>({1, -5}), DType::i64, {1, -5});
  expect("|u1", bytes_of<uint8_t>({1, 255}), DType::u8, {1, 255});
  expect("<u2", bytes_of<uint16_t>({1, 65535}), DType::i32, {1, 65535});
  expect("<u4", bytes_of<uint32_t>({1, 4294967295}), DType::i64, {1, 4294967295});
  expect("<u8", bytes_of<uint64_t>({1, 5}), DType::i64, {1, 5});
  expect("|b1", bytes_of<uint8_t>({1, 0}), DType::u8, {1, 0});
}

TEST_F(NpyTest, OrdersVersionsAndSpellings) {
  const std::string data = bytes_of<float>({1, 2, 3, 4, 5, 6});
  const std::string usual = dictionary("<f4", "(2, 3)");
  for (const int version : {1, 2, 3})
    EXPECT_EQ(load(with_header(usual, data, version)).to_vector<double>(),
              (std::vector<double>{1, 2, 3, 4, 5, 6}));
  // Columns lie side by side in Fortran order.
  const Tensor fortran = load(with_header(dictionary("<f4", "(2, 3)", "True"), data));
  EXPECT_EQ(fortran.shape(), (Shape{2, 3}));
  EXPECT_EQ(fortran.to_vector<double>(), (std::vector<double>{1, 3, 5, 2, 4, 6}));
  EXPECT_EQ(load(with_header(dictionary("<f4", "(6,)", "True"), data)).shape(), Shape{6});
  EXPECT_EQ(load(with_header(dictionary("<f4", "(0, 3)", "True"), "")).shape(), (Shape{0, 3}));
  EXPECT_EQ(load(with_header(dictionary("<f4", "(2L, 3L)"), data)).shape(), (Shape{2, 3}));
  EXPECT_EQ(load(with_header("{\"shape\":(3,2),\"fortran_order\":False,\"descr\":\"<f4\"}", data))
                .shape(),
            (Shape{3, 2}));
  EXPECT_EQ(load(with_header(dictionary("<f4", "()"), bytes_of<float>({7}))).item(), 7.0);
}

TEST_F(NpyTest, WrongFiles) {
  const std::string data = bytes_of<float>({1, 2, 3, 4, 5, 6});
  const std::string good = with_header(dictionary("<f4", "(2, 3)"), data);
  expect_refused("", "not a .npy file");
  expect_refused("PK\3\4 and so on and on", "not a .npy file");
  for (size_t size = 0; size < good.size(); ++size) expect_refused(good.substr(0, size), "");
  expect_refused(good + "x", "needs 24 bytes behind the header, got 25");
  std::string version = good;
  version[6] = 4;
  expect_refused(version, "version 4");
  std::string longer = good;
  longer[9] = '\x7f';
  expect_refused(longer, "header of");
  expect_refused(with_header(dictionary("<f4", "(2, 3)") + std::string(10'000, ' '), data),
                 "at most 10000");
}

TEST_F(NpyTest, WrongHeaders) {
  const std::string data = bytes_of<float>({1, 2, 3, 4, 5, 6});
  const auto refuse = [&](const std::string& header, const std::string& words) {
    expect_refused(with_header(header, data), words);
  };
  const auto refuse_type = [&](const std::string& descr, const std::string& words) {
    refuse(dictionary(descr, "(2, 3)"), words);
  };
  const auto refuse_shape = [&](const std::string& shape, const std::string& words) {
    refuse(dictionary("<f4", shape), words);
  };
  refuse_type("|O", "pickle");
  refuse_type(">f4", "big-endian");
  for (const char* descr : {"<c8", "<U4", "|S10", "|V2", "f4", "<f16", "<", "", "|f4"})
    refuse_type(descr, "not supported");
  refuse("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (6,)}", "structured");
  refuse_shape("(2, 4)", "needs 32 bytes");
  refuse_shape("(6)", "no tuple");
  refuse_shape("(-6,)", "extent");
  refuse_shape("(2, x)", "extent");
  refuse_shape("(2 3)", "expected ','");
  refuse_shape("(1, 1, 1, 1, 1, 6)", "more than 5 axes");
  refuse_shape("(4294967296, 4294967296)", "overflows");
  refuse_shape("(0, 4294967296, 4294967296)", "overflows");
  refuse_shape("(99999999999999999999,)", "extent");
  refuse("", "expected '{'");
  refuse("{", "expected '''");
  refuse("{}", "lacks");
  refuse("{'descr': '<f4', 'shape': (6,)}", "lacks");
  refuse("{'descr': '<f4', 'fortran_order': 0, 'shape': (6,)}", "expected 'False'");
  refuse("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (6,)}", "twice");
  refuse("{'shape': (6,), 'shape': (6,), 'fortran_order': False, 'descr': '<f4'}", "twice");
  refuse("{'descr': '<f4', 'fortran_order': False, 'shape': (6,), 'more': 1}", "'more'");
  refuse(dictionary("<f4", "(6,)") + "import os", "goes on");
  refuse("{'descr': '" + std::string(200, 'f') + "'}", "does not end");
  refuse("{'descr': __import__('os'), }", "expected '''");
  refuse("{'\n\x1b[31m': 1}", "'??[31m'");
  expect_refused(with_header(dictionary("<u8", "(1,)"), bytes_of<uint64_t>({~uint64_t{0}})),
                 "does not fit i64");
}

}  // namespace
}  // namespace facet
