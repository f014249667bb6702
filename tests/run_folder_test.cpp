// What a run leaves on the disk: old or new whatever fails or dies in between, and readable by
// others.
#include "apps/run_folder.h"

#include <sys/stat.h>
#include <sys/wait.h>

#include <atomic>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <map>
#include <new>

#include "apps/trainer.h"
#include "tests/folder.h"
#include "tests/generators.h"

static std::atomic<int> fail_allocation = 0;  // how many requests until one fails; 0: none

[[gnu::noinline]] void* operator new(size_t bytes) {
  int left = fail_allocation;
  if (left > 0 && (fail_allocation = left - 1) == 0) throw std::bad_alloc();
  if (void* const memory = std::malloc(std::max<size_t>(bytes, 1))) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept {
  std::free(memory);
}

namespace facet {
namespace {

namespace fs = std::filesystem;

// ---- TensorBoard

TEST(TensorBoard, ChecksumsAndRecordsAreTheSpecifieds) {
  EXPECT_EQ(crc32c("123456789"), 0xE3069283u);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAu);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62A8AB43u);
  EXPECT_EQ(crc32c(""), 0u);
  EXPECT_EQ(tf_record(version_event(1.7e9)),
            test::from_hex("1800000000000000 a37f4b22 0900000040fc54d941 1a0d"
                           "627261696e2e4576656e743a32 eced8f9d"));
  EXPECT_EQ(
      tf_record(scalar_event(1.7e9 + 1, 7, "loss", 0.5)),
      test::from_hex("1a00000000000000 129bd82d 0900004040fc54d941 1007 2a0d 0a0b 0a046c6f7373"
                     "150000003f 368fc084"));
}

// A reader of its own: bit by bit where the writer has a table, any protobuf message as fields.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : bytes_(bytes) {}

  static uint32_t masked(std::string_view bytes) {
    uint32_t crc = 0xFFFFFFFF;
    for (const char c : bytes) {
      crc ^= static_cast<uint8_t>(c);
      for (int i = 0; i < 8; ++i) crc = (crc & 1) != 0 ? crc / 2 ^ 0x82F63B78 : crc / 2;
    }
    crc = ~crc;
    return ((crc >> 15) | (crc << 17)) + 0xA282EAD8;
  }

  // The next record's data; nothing at the end or where it is cut short.
  std::optional<std::string_view> record() {
    uint64_t length = 0;
    if (bytes_.size() < 12) return std::nullopt;
    std::memcpy(&length, bytes_.data(), 8);
    expect_checksum(bytes_.substr(0, 8), bytes_.substr(8, 4));
    if (bytes_.size() < 16 + length) return std::nullopt;
    const std::string_view data = bytes_.substr(12, length);
    expect_checksum(data, bytes_.substr(12 + length, 4));
    bytes_.remove_prefix(16 + length);
    return data;
  }

  // Field number to its values: varints and fixed ones as numbers of 8 bytes, messages as bytes.
  static std::multimap<int, std::string> fields(std::string_view message) {
    std::multimap<int, std::string> all;
    const auto varint = [&] {
      uint64_t value = 0;
      for (int shift = 0;; shift += 7) {
        const auto byte = static_cast<uint8_t>(message.at(0));
        message.remove_prefix(1);
        value |= static_cast<uint64_t>(byte & 0x7F) << shift;
        if (byte < 0x80) return value;
      }
    };
    while (!message.empty()) {
      const uint64_t key = varint();
      uint64_t size = key % 8 == 1 ? 8 : 4;
      std::string value;
      if (key % 8 == 0) {
        const uint64_t number = varint();
        value.assign(reinterpret_cast<const char*>(&number), 8);
      } else {
        if (key % 8 == 2) size = varint();
        value = message.substr(0, size);
        EXPECT_EQ(value.size(), size);
        message.remove_prefix(size);
      }
      all.emplace(static_cast<int>(key / 8), value);
    }
    return all;
  }

 private:
  static void expect_checksum(std::string_view data, std::string_view stored) {
    uint32_t value = 0;
    std::memcpy(&value, stored.data(), 4);
    EXPECT_EQ(value, masked(data));
  }
  std::string_view bytes_;
};

template <typename T>
T number(const std::string& bytes) {
  T value{};
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

struct Scalar {
  int64_t step;
  std::string tag;
  float value;
};
struct Events {
  std::vector<Scalar> scalars;
  std::vector<std::pair<int64_t, int64_t>> sessions;  // step, status
  std::string text;
  size_t records = 0;
};

Events read_events(std::string_view bytes) {
  Events events;
  Reader reader(bytes);
  while (const auto data = reader.record()) {
    const auto event = Reader::fields(*data);
    if (events.records++ == 0) {
      EXPECT_EQ(event.find(3)->second, "brain.Event:2");
    }
    EXPECT_GT(number<double>(event.find(1)->second), 1.7e9);
    const int64_t step = event.contains(2) ? number<int64_t>(event.find(2)->second) : 0;
    if (const auto session = event.find(7); session != event.end())
      events.sessions.emplace_back(
          step, number<int64_t>(Reader::fields(session->second).find(1)->second));
    const auto summary = event.find(5);
    if (summary == event.end()) continue;
    const auto value = Reader::fields(Reader::fields(summary->second).find(1)->second);
    const std::string tag = value.find(1)->second;
    if (value.contains(2)) {
      events.scalars.push_back({step, tag, number<float>(value.find(2)->second)});
    } else {
      EXPECT_EQ(tag, "config/text_summary");
      const auto tensor = Reader::fields(value.find(8)->second);
      EXPECT_EQ(number<int64_t>(tensor.find(1)->second), 7);
      events.text = tensor.find(8)->second;
      const auto plugin = Reader::fields(Reader::fields(value.find(9)->second).find(1)->second);
      EXPECT_EQ(plugin.find(1)->second, "text");
    }
  }
  return events;
}

class FolderTest : public test::FolderTest {
 protected:
  void TearDown() override { set_file_fault({}); }
  std::string event_file() const {
    for (const auto& entry : fs::directory_iterator(path_))
      if (entry.path().filename().string().find("tfevents") != std::string::npos)
        return read_file(entry.path());
    return "";
  }
  fs::path checkpoints() const { return path_ / "checkpoints"; }
  fs::path checkpoint(int step) const {
    return checkpoints() / fmt::format("step-{:010}.safetensors", step);
  }

  // Steps 1, the best, to 3; made once and copied.
  void start_with_three();

  const fs::path path_ = folder_ / "run";
};

TEST_F(FolderTest, EventsAndLinesAreReadWhereverTheyAreCut) {
  {
    RunFolder folder(path_, "lr = 0.5\nepochs = 2\n");
    folder.begin(300, {{"seed", 1}});
    folder.log({{"step", 301}, {"split", "train"}, {"loss", 0.5}, {"lr", 1e-3}});
    folder.log({{"step", 302}, {"split", "test"}, {"accuracy", NAN}, {"name", "x"}});
    folder.log({{"step", 303}, {"split", "train"}, {"loss", nullptr}});
    folder.stopped(303);
  }
  const std::string bytes = event_file();
  const Events events = read_events(bytes);
  ASSERT_EQ(events.scalars.size(), 3u);
  EXPECT_EQ(events.scalars[0].tag, "train/loss");
  EXPECT_EQ(events.scalars[0].step, 301);
  EXPECT_EQ(events.scalars[0].value, .5f);
  EXPECT_EQ(events.scalars[2].tag, "test/accuracy");
  EXPECT_TRUE(std::isnan(events.scalars[2].value));
  EXPECT_EQ(events.text, "    lr = 0.5\n    epochs = 2\n");
  const std::vector<std::pair<int64_t, int64_t>> sessions = {{300, 1}, {303, 2}};
  EXPECT_EQ(events.sessions, sessions);
  size_t records = 0;
  for (size_t n = 0; n <= bytes.size(); ++n) {
    const Events part = read_events(std::string_view(bytes).substr(0, n));
    EXPECT_TRUE(part.records == records || part.records == records + 1) << n;
    records = part.records;
  }
  EXPECT_EQ(records, events.records);

  const std::string lines = read_file(path_ / "metrics.jsonl");
  EXPECT_EQ(lines.find("NaN"), std::string::npos);
  for (size_t n = 0; n <= lines.size(); ++n) {
    write_file(path_ / "metrics.jsonl", lines.substr(0, n));
    const auto whole = read_metrics(path_);
    const size_t first = lines.find('\n'), last = lines.size() - 1;
    EXPECT_EQ(whole.size(), n < first ? 0u : n < last ? 1u : 2u) << n;
  }
  EXPECT_EQ(Json::parse(read_file(path_ / "sessions.jsonl"))["seed"], 1);
}

// ---- checkpoints

std::vector<NamedTensor> tensors_of(double value) {
  return {{"model.w", Tensor::full({3, 5}, value)},
          {"optimizer.steps.w", Tensor::from<int64_t>({static_cast<int64_t>(value)})}};
}
void save(RunFolder& folder, int step, bool best = false) {
  folder.save_checkpoint(step, tensors_of(step), {{"facet.loss", std::to_string(step)}}, best);
}
// The step that the folder goes on from, all of whose numbers are that step's.
int64_t loaded_step(const RunFolder& folder) {
  const auto file = folder.load_checkpoint();
  if (!file) return 0;
  const int64_t step = std::stol(file->metadata.at("facet.step"));
  EXPECT_EQ(file->metadata.at("facet.loss"), std::to_string(step));
  for (const auto& [name, value] : file->tensors)
    for (const double v : value.to_vector<double>()) EXPECT_EQ(v, static_cast<double>(step));
  EXPECT_EQ(file->tensors.size(), 2u);
  return step;
}
size_t temporaries(const fs::path& folder) {
  size_t count = 0;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    count += entry.path().extension() == ".tmp";
  return count;
}
// The checkpoint that `latest` or `best` names is there and whole.
void expect_points_to_a_file(const fs::path& folder, const char* name) {
  const std::string text = read_file(folder / name);
  const TensorFile file = load_safetensors(folder / text.substr(0, text.find(' ')));
  EXPECT_EQ(text.substr(text.find(' ') + 1), file.metadata.at("facet.seal") + "\n");
}

void FolderTest::start_with_three() {
  const fs::path made = folder_ / "made";
  fs::remove_all(path_);
  if (!fs::exists(made)) {
    RunFolder folder(made, "");
    for (int step = 1; step <= 3; ++step) save(folder, step, step == 1);
  }
  fs::copy(made, path_, fs::copy_options::recursive);
}

TEST_F(FolderTest, TheNewestTwoAndTheBestAreKept) {
  RunFolder folder(path_, "");
  for (int step = 1; step <= 6; ++step) save(folder, step, step == 2);
  for (int step = 1; step <= 6; ++step)
    EXPECT_EQ(fs::exists(checkpoint(step)), step == 2 || step >= 5) << step;
  EXPECT_EQ(read_file(checkpoints() / "best").find("step-0000000002.safetensors "), 0u);
  EXPECT_EQ(read_file(checkpoints() / "latest").find("step-0000000006.safetensors "), 0u);
  expect_points_to_a_file(checkpoints(), "best");
  expect_points_to_a_file(checkpoints(), "latest");
  save(folder, 7, true);
  EXPECT_FALSE(fs::exists(checkpoint(2)));
  // A state that is no good replaces nothing and is never continued from.
  const fs::path crash = folder.save_crash(9, tensors_of(NAN), {});
  EXPECT_TRUE(fs::exists(crash));
  EXPECT_EQ(loaded_step(folder), 7);
  EXPECT_TRUE(fs::exists(checkpoint(6)));
  EXPECT_EQ(read_file(checkpoints() / "latest").find("step-0000000007"), 0u);
}

TEST_F(FolderTest, EveryFlippedBitGivesWayToTheCheckpointBefore) {
  std::string good;
  {
    RunFolder folder(path_, "");
    save(folder, 1);
    save(folder, 2);
    good = read_file(checkpoint(2));
  }
  size_t detected = 0;
  for (size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ (1 << i % 8));
    write_file(checkpoint(2), bad);
    const RunFolder folder(path_, "");
    const int64_t step = loaded_step(folder);  // never a mixture
    detected += step == 1;
    EXPECT_EQ(fs::exists(checkpoints() / "damaged-step-0000000002.safetensors"), step == 1);
    fs::remove(checkpoints() / "damaged-step-0000000002.safetensors");
  }
  EXPECT_GT(detected, good.size() * 9 / 10);  // the rest is padding and the like
  write_file(checkpoint(1), "x");
  write_file(checkpoint(2), "x");
  const RunFolder folder(path_, "");
  EXPECT_THROW(folder.load_checkpoint(), FileError);  // never from the start as if nothing were
}

// Saves with the N-th call failing, for N = 1, 2, ... until nothing fails any more; `from_then`:
// the ones after it, too.
TEST_F(FolderTest, WhateverCallFailsTheOldOrTheNewIsThere) {
  for (const bool from_then : {false, true})
    for (const int error : {ENOSPC, EIO, EINTR, kShortWrite}) {
      if (from_then && error == EINTR) continue;  // a call that is interrupted for ever
      int calls = 0, n = 0;
      do {
        start_with_three();
        bool failed = false;
        {
          RunFolder folder(path_, "");
          calls = 0;
          ++n;
          set_file_fault([&](FileCall call, const fs::path&) {
            ++calls;
            const bool hit = from_then ? calls >= n : calls == n;
            return hit && (error > 0 || call == FileCall::write) ? error : 0;
          });
          try {
            save(folder, 4, true);
          } catch (const FileError& e) {
            failed = true;
            EXPECT_NE(std::string(e.what()).find("checkpoints"), std::string::npos);
          }
          set_file_fault({});
        }
        const RunFolder folder(path_, "");
        const int64_t step = loaded_step(folder);
        EXPECT_TRUE(step == 4 || (failed && step == 3)) << n << " " << error;
        expect_points_to_a_file(checkpoints(), "latest");
        expect_points_to_a_file(checkpoints(), "best");
        EXPECT_EQ(temporaries(path_), 0u) << n << " " << error;
        EXPECT_TRUE(fs::exists(checkpoint(3)));  // two good ones, always
        EXPECT_TRUE(fs::exists(checkpoint(2)) || fs::exists(checkpoint(4)));
        if (error == kShortWrite) {
          EXPECT_FALSE(failed);  // the rest is written by the next call
        }
        ASSERT_LT(n, 200);
      } while (n <= calls);
      EXPECT_GT(n, 10);
    }
}

// What a disk holds whose power is lost: of what was not synced nothing, or new names alone.
class PowerLoss {
 public:
  explicit PowerLoss(const fs::path& folder) : folder_(folder), names_(listing()) {
    for (const auto& [name, id] : names_) synced_[id] = read_file(folder / name);
  }
  void before(FileCall call, const fs::path& path) {
    if (call == FileCall::write) synced_.erase(id_of(path));
    if (call != FileCall::sync) return;
    if (fs::is_directory(path))
      names_ = listing();
    else
      synced_[id_of(path)] = read_file(path);
  }
  void cut() { last_ = listing(); }
  void leave_in(const fs::path& folder, bool names_without_sync) const {
    fs::remove_all(folder);
    make_folder(folder);
    for (const auto& [name, id] : names_without_sync ? last_ : names_) {
      const auto content = synced_.find(id);
      write_file(folder / name, content == synced_.end() ? std::string() : content->second);
    }
  }

 private:
  static ino_t id_of(const fs::path& path) {
    struct stat info {};
    ::stat(path.c_str(), &info);
    return info.st_ino;
  }
  std::map<std::string, ino_t> listing() const {
    std::map<std::string, ino_t> names;
    for (const auto& entry : fs::directory_iterator(folder_))
      names[entry.path().filename().string()] = id_of(entry.path());
    return names;
  }
  fs::path folder_;
  std::map<std::string, ino_t> names_, last_;
  std::map<ino_t, std::string> synced_;
};

TEST_F(FolderTest, WhateverAPowerLossDropsTheOldOrTheNewIsThere) {
  int calls = 0;
  for (int n = 1; n == 1 || n <= calls + 1; ++n) {
    start_with_three();
    auto folder = std::make_unique<RunFolder>(path_, "");
    PowerLoss disk(checkpoints());
    calls = 0;
    set_file_fault([&](FileCall call, const fs::path& path) {
      if (++calls == n) disk.cut();
      if (calls >= n) return EIO;
      disk.before(call, path);
      return 0;
    });
    bool saved = true;
    try {
      save(*folder, 4, true);
    } catch (const FileError&) {
      saved = false;
    }
    set_file_fault({});
    folder.reset();
    if (n > calls) disk.cut();
    for (const bool names : {false, true}) {
      disk.leave_in(checkpoints(), names);
      RunFolder again(path_, "");
      const int64_t step = loaded_step(again);
      EXPECT_TRUE(step == 4 || (!saved && step == 3)) << n << names;
      expect_points_to_a_file(checkpoints(), "latest");
      expect_points_to_a_file(checkpoints(), "best");
      save(again, 5);
      EXPECT_EQ(loaded_step(again), 5);
    }
    ASSERT_LT(n, 200);
  }
  EXPECT_GT(calls, 10);
}

// Memory that runs out at the N-th request of a save or a load. In a process of its own: inside of
// libstdc++'s directory iterators, and where JSON values are freed, that is its end.
TEST_F(FolderTest, WhateverAllocationFailsTheOldOrTheNewIsThere) {
  for (const bool saving : {true, false}) {
    bool whole = false;  // nothing failed any more
    int clean = 0, n = 1;
    for (; !whole; n += 1 + n / 40) {
      start_with_three();
      const pid_t pid = ::fork();
      if (pid == 0) {
        ::close(STDERR_FILENO);
        RunFolder folder(path_, "");
        fail_allocation = n;
        int code = 1;
        try {
          if (saving)
            save(folder, 4, true);
          else
            folder.load_checkpoint();
        } catch (const std::bad_alloc&) {
          code = 2;
        } catch (const Error& e) {
          code = e.exit_code() == ExitCode::out_of_memory ? 2 : 3;
        }
        ::_exit(fail_allocation.exchange(0) > 0 ? 0 : code);
      }
      int status = 0;
      ::waitpid(pid, &status, 0);
      whole = status == 0;
      clean += WIFEXITED(status) && WEXITSTATUS(status) == 2;
      EXPECT_FALSE(WIFEXITED(status) && WEXITSTATUS(status) == 3) << n;
      const RunFolder folder(path_, "");
      const int64_t step = loaded_step(folder);
      EXPECT_TRUE(step == 3 || (saving && step == 4)) << n;
      EXPECT_TRUE(!whole || step == (saving ? 4 : 3)) << n;
      expect_points_to_a_file(checkpoints(), "latest");
      EXPECT_EQ(temporaries(path_), 0u) << n;
      EXPECT_TRUE(fs::exists(checkpoint(3)));
      ASSERT_LT(n, 100'000);
    }
    EXPECT_GT(clean, 20) << n;
  }
}

// The same with the process dying there.
TEST_F(FolderTest, WhereverItIsKilledTheOldOrTheNewIsThere) {
  bool survived = false;
  for (int n = 1; !survived; ++n) {
    ASSERT_LT(n, 200);
    start_with_three();
    const pid_t pid = ::fork();
    if (pid == 0) {
      RunFolder folder(path_, "");
      int calls = 0;
      set_file_fault([&](FileCall, const fs::path&) {
        if (++calls == n) ::kill(::getpid(), SIGKILL);
        return 0;
      });
      save(folder, 4, true);
      ::_exit(0);
    }
    int status = 0;
    ::waitpid(pid, &status, 0);
    survived = WIFEXITED(status);
    RunFolder folder(path_, "");
    const int64_t step = loaded_step(folder);
    EXPECT_TRUE(step == 4 || (!survived && step == 3)) << n;
    expect_points_to_a_file(checkpoints(), "latest");
    expect_points_to_a_file(checkpoints(), "best");
    EXPECT_EQ(temporaries(path_), 0u) << n;
    save(folder, 5);  // and the run goes on
    EXPECT_EQ(loaded_step(folder), 5);
  }
}

TEST_F(FolderTest, AFullDiskStopsTheLogsAndNothingElse) {
  RunFolder folder(path_, "");
  folder.begin(0, {});
  folder.log({{"step", 1}, {"loss", 1.0}});
  set_file_fault([](FileCall, const fs::path&) { return ENOSPC; });
  EXPECT_NO_THROW(folder.log({{"step", 2}, {"loss", 1.0}}));
  set_file_fault({});
  folder.log({{"step", 3}, {"loss", 1.0}});  // what was broken off is not gone on with
  EXPECT_EQ(read_metrics(path_).size(), 1u);
  EXPECT_EQ(read_events(event_file()).scalars.size(), 1u);
  EXPECT_THROW(folder.expect_space(size_t{1} << 62), FileError);
  EXPECT_NO_THROW(folder.expect_space(1000));
}

}  // namespace
}  // namespace facet
