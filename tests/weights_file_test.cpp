// Files of weights: what tests/fixtures/make_checkpoints.py wrote is read byte for byte, everything
// that is wrong or hostile is refused in one line, and what is written opens elsewhere.
#include "tensor/weights_file.h"

#include <sys/resource.h>
#include <sys/wait.h>

#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "tensor/hash.h"
#include "tensor/pickle.h"
#include "tensor/pytorch.h"
#include "tensor/serialize.h"
#include "tests/folder.h"
#include "tests/generators.h"

namespace facet {
namespace {

namespace fs = std::filesystem;

using test::from_hex;

const fs::path kFixtures = fs::path(FACET_SOURCE_DIR) / "tests/fixtures";

std::string hash_of(const std::string& bytes) {
  return sha256(std::as_bytes(std::span(bytes)));
}

using Listing = std::map<std::string, std::string>;  // name to "F32 [2,3] sha256"

Listing listing_of(const WeightsFile& file) {
  Listing listing;
  for (const StoredTensor& tensor : file.content().tensors)
    listing[tensor.name] = fmt::format("{} [{}] {}", tensor.type->name,
                                       fmt::join(tensor.shape, ","), sha256(file.read(tensor)));
  return listing;
}

Listing expected_of(const fs::path& json) {
  Listing listing;
  std::ifstream stream(json);
  const nlohmann::json content = nlohmann::json::parse(stream);
  for (const auto& [name, entry] : content.items())
    listing[name] = fmt::format("{} {} {}", entry["dtype"].get<std::string>(),
                                entry["shape"].dump(), entry["sha256"].get<std::string>());
  return listing;
}

class WeightsFileTest : public test::FolderTest {
 protected:
  fs::path written(const std::string& content) const {
    std::ofstream(folder_ / "x", std::ios::binary) << content;  // not synced: thousands of them
    return folder_ / "x";
  }
};

TEST_F(WeightsFileTest, EveryContainerComesBackByteForByte) {
  const std::map<std::string, std::string> containers = {
      {"zip.pth", "zip"},       {"legacy.pth", "legacy"},      {"tar.pth", "tar"},
      {"cuda-zip.pth", "zip"},  {"cuda-legacy.pth", "legacy"}, {"deflated.pth", "zip"},
      {"stored.npz", "npz"},    {"deflated.npz", "npz"},       {"protocol1.pth", "zip"},
      {"protocol3.pth", "zip"}, {"protocol4.pth", "zip"},      {"protocol5.pth", "zip"}};
  size_t seen = 0;
  for (const auto& entry : fs::directory_iterator(kFixtures / "checkpoints")) {
    if (entry.path().extension() == ".json") continue;
    const std::string name = entry.path().filename().string();
    SCOPED_TRACE(name);
    const WeightsFile file(entry.path());
    ASSERT_TRUE(containers.contains(name));
    EXPECT_EQ(file.content().container, containers.at(name));
    EXPECT_EQ(listing_of(file), expected_of(entry.path().string() + ".json"));
    ++seen;
  }
  EXPECT_EQ(seen, containers.size());
}

TEST_F(WeightsFileTest, ObjectsArePassedOverAndNamed) {
  for (const char* name : {"zip.pth", "legacy.pth"}) {
    SCOPED_TRACE(name);
    const WeightsFile file(kFixtures / "checkpoints" / name);
    EXPECT_EQ(file.content().opaque, (std::vector<std::string>{"argparse.Namespace", "builtins.int",
                                                               "pathlib.PosixPath"}));
    const auto& values = file.content().metadata;
    EXPECT_EQ(values.at("epoch"), "7");
    EXPECT_EQ(values.at("arch"), "resnet50");
    EXPECT_EQ(values.at("best"), "76.5");
    EXPECT_EQ(values.at("negative"), "-3");
    EXPECT_EQ(values.at("args.lr"), "0.1");
    EXPECT_EQ(values.at("args.output_dir"), "/a/b");
    // Tied weights and views share what they lie in.
    const size_t block = file.find("model.weight")->block;
    for (const char* view : {"model.tied", "model.row", "model.column", "model.transposed"})
      EXPECT_EQ(file.find(view)->block, block) << view;
    EXPECT_EQ(file.find("model.transposed")->strides, (std::vector<int64_t>{1, 4}));
    EXPECT_EQ(file.load(*file.find("model.count")).item(), 42.0);
  }
}

// The vectors were accepted by PyTorch 1.13.
TEST_F(WeightsFileTest, GoldenVectors) {
  const std::string pickle = from_hex(
      "800263636f6c6c656374696f6e730a4f726465726564446963740a29522858010000007763746f7263682e5f7574"
      "696c730a5f72656275696c645f74656e736f725f76320a2828580700000073746f7261676563746f7263680a466c"
      "6f617453746f726167650a58010000003058030000006370754b0674514b00284b024b0374284b034b0174896363"
      "6f6c6c656374696f6e730a4f726465726564446963740a2952745258010000006e63746f7263682e5f7574696c73"
      "0a5f72656275696c645f74656e736f725f76320a2828580700000073746f7261676563746f7263680a4c6f6e6753"
      "746f726167650a58010000003158030000006370754b0174514b00287428748963636f6c6c656374696f6e730a4f"
      "726465726564446963740a29527452752e");
  EXPECT_EQ(hash_of(pickle), "bbbf2eb49ace61555fa672ed9476ae81ff75ed27874cbde8c8bafbd5f1f0062a");
  const float values[] = {0, 1, 2, 3, 4, 5};
  const std::string floats(reinterpret_cast<const char*>(values), sizeof(values));
  const std::string count = from_hex("2a00000000000000");
  const Listing expected = {{"w", "F32 [2,3] " + hash_of(floats)},
                            {"n", "I64 [] " + hash_of(count)}};

  {
    AtomicFile file(folder_ / "zip");
    ZipWriter zip(file);
    zip.add("archive/data.pkl", pickle);
    zip.add("archive/data/0", floats);
    zip.add("archive/data/1", count);
    zip.add("archive/version", "3\n");
    zip.finish();
    file.commit();
  }
  EXPECT_EQ(listing_of(WeightsFile(folder_ / "zip")), expected);

  std::string body = pickle;
  for (size_t at = 0; (at = body.find("tQ", at)) != std::string::npos; at += 3)
    body.insert(at, "N");
  const std::string legacy = from_hex(
                                 "80028a0a6cfc9c46f9206aa850192e80024de9032e80027d71002858100000007"
                                 "0726f746f636f6c5f76657273"
                                 "696f6e71014de903580d0000006c6974746c655f656e6469616e710288580a000"
                                 "000747970655f73697a657371"
                                 "037d710428580500000073686f727471054b025803000000696e7471064b04580"
                                 "40000006c6f6e6771074b0475"
                                 "752e") +
                             body + from_hex("80025d71002858010000003071015801000000317102652e") +
                             from_hex("0600000000000000") + floats +
                             test::from_hex("0100000000000000") + count;
  EXPECT_EQ(legacy.size(), 504u);
  EXPECT_EQ(hash_of(legacy), "5fe03395fd344812b0f9b29f6f5f5092b1b7ef0029885f1a04ca75ff67d2e019");
  EXPECT_EQ(listing_of(WeightsFile(written(legacy))), expected);

  const std::string safetensors =
      from_hex("4000000000000000") +
      R"({"attn.0":{"dtype":"F32","shape":[1,2,3],"data_offsets":[0,24]}})" + floats;
  EXPECT_EQ(listing_of(WeightsFile(written(safetensors))),
            (Listing{{"attn.0", "F32 [1,2,3] " + hash_of(floats)}}));
}

// What is said of each hostile file; "+" stands before a warning of one that is read.
const std::map<std::string, std::string> kHostile = {
    {"system-call", "+os.system"},
    {"torchscript", "TorchScript"},
    {"no-version", "+no record 'version'"},
    {"version-without-newline", "+"},
    {"version-11", "version 11 of the format, expected 1 to 10"},
    {"no-prefix", "no prefix in common"},
    {"two-level-prefix", "no record 'a/data.pkl'"},
    {"extra-records", "+"},
    {"short-record", "record 'data/0' has 8 bytes, expected 24"},
    {"long-record", "+record 'data/0' has 28 bytes, expected 24"},
    {"missing-record", "no record 'archive/data/0'"},
    {"stride-beyond", "reaches beyond the 6 elements"},
    {"offset-beyond", "reaches beyond the 6 elements"},
    {"negative-size", "a size of -2"},
    {"negative-stride", "a stride of -3"},
    {"negative-offset", "begins at element -1"},
    {"size-overflow", "larger than 64 GiB"},
    {"stride-overflow", "reaches beyond"},
    {"expanded-bomb", "larger than 64 GiB"},
    {"many-bombs", "with it all tensors have more than"},
    {"negative-numel", "the number of elements of a storage is none"},
    {"many-axes", "40 axes, expected at most 32"},
    {"item-into-tensor", "puts items into a tensor"},
    {"append-to-tensor", "puts items into a tensor"},
    {"item-into-number", "sets an item of what is no dictionary"},
    {"append-to-dict", "appends to what is no list"},
    {"quantised", "+torch.QInt8Storage"},
    {"stack-underflow", "the stack is empty"},
    {"pop-below-mark", "the stack is empty"},
    {"no-mark", "no mark"},
    {"dangling-memo", "nothing was remembered as 5"},
    {"large-memo", "memo 2147483647, expected at most"},
    {"truncated-pickle", "truncated?"},
    {"no-stop", "truncated?"},
    {"empty-pickle", "truncated?"},
    {"long-string", "4294967295 bytes, expected at most"},
    {"negative-string", "a length of -1"},
    {"long-bytes", "18446744073709551615 bytes, expected at most"},
    {"long-integer", "an integer of 255 bytes, expected at most"},
    {"persid", "opcode 0x50: not supported"},
    {"inst", "opcode 0x69: not supported"},
    {"extension", "opcode 0x82: not supported"},
    {"buffer", "opcode 0x97: not supported"},
    {"unknown-opcode", "opcode 0xff: not supported"},
    {"protocol-6", "protocol 6, expected at most 5"},
    {"many-marks", "more than 4096 marks"},
    {"deep-stack", "a stack deeper than 1048576"},
    {"laughs", "objects when spread out"},
    {"loop", "+"},
    {"deep-nesting", "+nested deeper than 64"},
    {"encrypted", "'archive/data.pkl' is encrypted"},
    {"method-12", "is packed by method 12"},
    {"wrong-crc", "'archive/data/0' has checksum 91e79017, expected 12345678: damaged"},
    {"overlap", "overlaps"},
    {"header-elsewhere", "is not at byte 3"},
    {"header-behind", "begins at byte 2147483647, behind the last"},
    {"stored-sizes-differ", "is stored in 24 bytes, expected 1000"},
    {"nul-in-name", "a name with a NUL"},
    {"twice", "'archive/data/0' is there twice"},
    {"no-directory", "no directory at the end"},
    {"zip-with-a-prefix", "neither a PyTorch file nor"},
    {"foreign-zip", "no record 'x/data.pkl'"},
    {"ratio", "claims to unpack"},
    {"bomb-of-another-size", "does not unpack to its 20000 bytes"},
    {"directory-count", "is missing from its directory"},
    {"legacy-numel", "storage '0' has 5 elements, expected 6"},
    {"legacy-truncated", "truncated?"},
    {"legacy-junk", "+4 bytes behind the last storage"},
    {"legacy-big-endian", "+no checksums"},
    {"legacy-cuda-class", "+no checksums"},
    {"legacy-huge", "storage '0' has 6 elements, expected 2147483647"},
    {"legacy-extra-key", "nothing uses storage '1'"},
    {"legacy-module", "save its state_dict()"},
    {"gzip", "a gzip file"},
    {"hdf5", "an HDF5 file"},
    {"lfs", "a pointer of Git LFS"},
    {"web-page", "a web page"},
    {"nothing", "empty: the download failed?"},
    {"plain-pickle", "a pickle, but not of PyTorch"},
    {"tar-of-something", "a tar without 'sys_info'"},
    {"tar-damaged", "no tar file: a header with a wrong checksum at byte 0"},
    {"no-checksums", "+no record's checksum is right"},
};

TEST_F(WeightsFileTest, EveryHostileFileIsRefusedInOneLineOrReadWithAWarning) {
  struct rusage before, after;
  ::getrusage(RUSAGE_SELF, &before);
  size_t seen = 0;
  const float values[] = {0, 1, 2, 3, 4, 5};
  const Tensor expected = Tensor::from(std::vector<float>(values, values + 6), {2, 3});
  for (const auto& entry : fs::directory_iterator(kFixtures / "hostile")) {
    const std::string name = entry.path().filename().string();
    SCOPED_TRACE(name);
    ASSERT_TRUE(kHostile.contains(name));
    const std::string words = kHostile.at(name);
    ++seen;
    try {
      const WeightsFile file(entry.path());
      for (const StoredTensor& tensor : file.content().tensors) {
        const Tensor loaded = file.load(tensor);
        if (words.starts_with('+') && tensor.name == "w") {
          EXPECT_EQ(loaded.to_vector<float>(), expected.to_vector<float>());
        }
      }
      ASSERT_TRUE(words.starts_with('+')) << "accepted";
      std::string said;
      for (const auto& warning : file.content().warnings) said += warning;
      for (const auto& opaque : file.content().opaque) said += opaque;
      EXPECT_NE(said.find(words.substr(1)), std::string::npos) << said;
    } catch (const FileError& e) {
      const std::string message = e.what();
      EXPECT_FALSE(words.starts_with('+')) << message;
      EXPECT_NE(message.find(words), std::string::npos) << message;
      EXPECT_EQ(message.rfind(entry.path().string() + ": ", 0), 0u) << message;
      EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    }
  }
  EXPECT_EQ(seen, kHostile.size());
  EXPECT_FALSE(fs::exists("/tmp/owned"));
  ::getrusage(RUSAGE_SELF, &after);
  EXPECT_LT(after.ru_maxrss - before.ru_maxrss, 1 << 20) << "KiB more than before";
}

// Each alone in a process that may take 128 MiB more than it has.
TEST_F(WeightsFileTest, NoHostileFileTakesMuchMemory) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers reserve terabytes of addresses";
#endif
  for (const auto& [name, words] : kHostile) {
    const pid_t pid = ::fork();
    if (pid == 0) {
      ::alarm(100);
      size_t pages = 0;
      std::ifstream("/proc/self/statm") >> pages;
      const rlim_t most = pages * static_cast<size_t>(::sysconf(_SC_PAGESIZE)) + (128 << 20);
      const struct rlimit limit = {most, most};
      if (::setrlimit(RLIMIT_AS, &limit) != 0) ::_exit(3);
      try {
        const WeightsFile file(kFixtures / "hostile" / name);
        for (const StoredTensor& tensor : file.content().tensors) file.load(tensor);
      } catch (const FileError&) {
      } catch (...) {
        ::_exit(1);
      }
      ::_exit(0);
    }
    int status = 0;
    ::waitpid(pid, &status, 0);
    EXPECT_EQ(status, 0) << name;
  }
}

TEST_F(WeightsFileTest, StrictlyEveryWarningIsAnError) {
  for (const char* name : {"zip.pth", "deflated.npz"})
    EXPECT_NO_THROW(WeightsFile(kFixtures / "checkpoints" / name, true)) << name;
  for (const char* name : {"no-checksums", "wrong-crc", "long-record", "legacy-junk"})
    EXPECT_THROW(WeightsFile(kFixtures / "hostile" / name, true), FileError) << name;
}

TEST_F(WeightsFileTest, DamageIsNoticedWhereThereAreChecksums) {
  const fs::path good = kFixtures / "checkpoints/cuda-zip.pth";
  const std::string content = read_file(good);
  const Listing expected = listing_of(WeightsFile(good));
  size_t refused = 0;
  for (size_t byte = 0; byte < content.size(); ++byte)
    for (int bit = 0; bit < 8; bit += 3) {
      std::string bad = content;
      bad[byte] = static_cast<char>(bad[byte] ^ (1 << bit));
      try {
        EXPECT_EQ(listing_of(WeightsFile(written(bad))), expected) << byte << " " << bit;
      } catch (const FileError&) {
        ++refused;
      }
    }
  EXPECT_GT(refused, content.size());
}

TEST_F(WeightsFileTest, EveryTruncationIsRefused) {
  for (const char* name : {"zip.pth", "legacy.pth", "tar.pth", "deflated.npz"}) {
    const std::string content = read_file(kFixtures / "checkpoints" / name);
    const size_t whole = std::string(name) == "tar.pth" ? 3700 : content.size();  // padded
    for (size_t length = 0; length < whole; length += 1 + length / 40)
      EXPECT_THROW(listing_of(WeightsFile(written(content.substr(0, length)))), FileError)
          << name << " " << length;
  }
}

TEST_F(WeightsFileTest, PicklesSayWhereTheyEnd) {
  uint64_t position = 3;
  const Pickle pickle("(K\1K\2t.and more", &position);
  EXPECT_EQ(position, 10u);
  ASSERT_TRUE(pickle.is(pickle.root(), Pickle::Kind::tuple));
  EXPECT_EQ(pickle.integer(pickle.item(pickle.root(), 1)), 2);
  EXPECT_EQ(pickle.item(pickle.root(), 2), Pickle::kNone);
  EXPECT_THROW(Pickle("(K\1K"), PickleTruncated);
}

// ---- writing

struct Packed {
  std::vector<std::vector<std::byte>> bytes;
  std::vector<PackedTensor> tensors;

  explicit Packed(const WeightsFile& file, std::set<std::string> skip = {}) {
    for (const StoredTensor& tensor : file.content().tensors) {
      if (skip.contains(tensor.type->name)) continue;
      bytes.push_back(file.read(tensor));
      tensors.push_back({tensor.name, tensor.type, tensor.shape, bytes.back()});
    }
  }
};

TEST_F(WeightsFileTest, WhatIsWrittenComesBackAndIsAlwaysTheSame) {
  const WeightsFile source(kFixtures / "checkpoints/zip.pth");
  const Packed packed(source);
  save_pytorch(folder_ / "a.pth", packed.tensors);
  save_pytorch(folder_ / "b.pth", packed.tensors);
  EXPECT_EQ(read_file(folder_ / "a.pth"), read_file(folder_ / "b.pth"));
  EXPECT_EQ(listing_of(WeightsFile(folder_ / "a.pth")), listing_of(source));
  const InputFile raw(folder_ / "a.pth");
  const ZipArchive zip(raw);
  for (const ZipEntry& entry : zip.entries()) {
    EXPECT_EQ(entry.begin % 64, 0u) << entry.name;
    EXPECT_EQ(entry.name.find(".format_version"), std::string::npos);
  }

  const Packed real(source, {"BF16", "C64"});
  save_npz(folder_ / "a.npz", real.tensors);
  save_npz(folder_ / "b.npz", real.tensors);
  EXPECT_EQ(read_file(folder_ / "a.npz"), read_file(folder_ / "b.npz"));
  Listing expected = listing_of(source);
  expected.erase("model.torch.bfloat16");
  expected.erase("model.complex");
  EXPECT_EQ(listing_of(WeightsFile(folder_ / "a.npz")), expected);
  EXPECT_THROW(save_npz(folder_ / "c.npz", packed.tensors), FileError);
  EXPECT_FALSE(fs::exists(folder_ / "c.npz"));

  save_safetensors(folder_ / "a.safetensors", packed.tensors);
  const WeightsFile safetensors(folder_ / "a.safetensors");
  EXPECT_EQ(listing_of(safetensors), listing_of(source));
  EXPECT_EQ(safetensors.content().container, "safetensors");
  EXPECT_THROW(safetensors.load(*safetensors.find("model.complex")), FileError);
}

TEST_F(WeightsFileTest, ABf16TensorBecomesF32InNpz) {
  const WeightsFile source(kFixtures / "checkpoints/zip.pth");
  const StoredTensor& half = *source.find("model.torch.bfloat16");
  const std::vector<std::byte> bytes = source.read(half);
  const PackedTensor packed[] = {{"h", half.type, half.shape, bytes}};
  save_npz(folder_ / "h.npz", packed);
  const WeightsFile file(folder_ / "h.npz");
  EXPECT_EQ(file.load(*file.find("h")).to_vector<float>(), (std::vector<float>{0, 1, 2, 3, 4}));
}

TEST_F(WeightsFileTest, PyTorchOpensWhatIsWritten) {
  const char* const python = "/usr/bin/python3";
  if (!fs::exists(python) ||
      std::system(fmt::format("{} -c 'import torch, numpy' 2>/dev/null", python).c_str()) != 0)
    GTEST_SKIP() << "python3-torch is not installed";
  const Packed packed(WeightsFile(kFixtures / "checkpoints/zip.pth"));
  save_pytorch(folder_ / "w.pth", packed.tensors);
  write_file(folder_ / "check.py", R"(
import hashlib, json, sys, torch
sys.path.insert(0, sys.argv[3])
from make_checkpoints import flat
state = torch.load(sys.argv[1], weights_only=True)
assert type(state).__name__ == "OrderedDict", type(state)
found = {name: flat(value)[""] for name, value in state.items()}
assert found == json.load(open(sys.argv[2])), found
)");
  const std::string command =
      fmt::format("{} {} {} {} {} > {} 2>&1", python, (folder_ / "check.py").string(),
                  (folder_ / "w.pth").string(), (kFixtures / "checkpoints/zip.pth.json").string(),
                  kFixtures.string(), (folder_ / "said").string());
  EXPECT_EQ(std::system(command.c_str()), 0) << read_file(folder_ / "said");
}

}  // namespace
}  // namespace facet
