// Runs the built program and catches what it says.
#pragma once

#include <fcntl.h>
#include <sys/wait.h>

#include <cstring>
#include <filesystem>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include "tensor/file.h"
#include "tensor/serialize.h"
#include "tests/folder.h"

namespace facet {

struct Outcome {
  int code = -1;  // exit code; 128 + signal when killed
  std::string out, err;
};

using Words = std::vector<std::string>;
// "pretrain --lr 0.1" as words.
inline Words split(const std::string& text) {
  std::istringstream stream(text);
  return {std::istream_iterator<std::string>(stream), {}};
}
inline Words joined(Words a, const Words& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

inline void expect_same_weights(const std::filesystem::path& a, const std::filesystem::path& b) {
  const auto x = load_safetensors(a).tensors, y = load_safetensors(b).tensors;
  ASSERT_EQ(x.size(), y.size());
  for (size_t i = 0; i < x.size(); ++i) {
    ASSERT_EQ(x[i].name, y[i].name);
    ASSERT_EQ(x[i].value.shape(), y[i].value.shape());
    EXPECT_EQ(std::memcmp(x[i].value.raw(), y[i].value.raw(), x[i].value.bytes()), 0) << x[i].name;
  }
}

class ProgramTest : public test::FolderTest {
 protected:
  std::string path(const std::string& name) const { return (folder_ / name).string(); }

  pid_t start(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), FACET_PROGRAM);
    std::vector<char*> argv;
    for (std::string& a : arguments) argv.push_back(a.data());
    argv.push_back(nullptr);
    const std::string out = path(".out"), err = path(".err");
    const pid_t pid = ::fork();
    if (pid == 0) {
      const auto redirect = [](const std::string& file, int to) {
        ::dup2(::open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), to);
      };
      redirect(out, STDOUT_FILENO);
      redirect(err, STDERR_FILENO);
      ::execv(argv[0], argv.data());
      ::_exit(127);
    }
    return pid;
  }
  Outcome finish(pid_t pid) {
    int status = 0;
    ::waitpid(pid, &status, 0);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
            read_file(path(".out")), read_file(path(".err"))};
  }
  Outcome run(const std::vector<std::string>& arguments) { return finish(start(arguments)); }

  // Exit code, and one line on stderr that holds every one of `words`.
  void expect_error(const std::vector<std::string>& arguments, int code,
                    const std::vector<std::string>& words) {
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.code, code) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    const std::string& err = outcome.err;
    const size_t at = err.rfind("error: ");
    ASSERT_NE(at, std::string::npos) << err;
    EXPECT_EQ(err.find('\n', at), err.size() - 1) << "not one line: " << err;
    for (const std::string& word : words)
      EXPECT_NE(err.find(word, at), std::string::npos) << "no '" << word << "' in: " << err;
  }
};

}  // namespace facet
