// The options of one subcommand: defaults, overridden by a recipe (TOML), overridden by environment
// variables (--batch-size is FACET_BATCH_SIZE), overridden by the command line. Names are timm's
// where timm has one.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tensor/check.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace facet {

using Arguments = std::vector<std::string>;

// A UsageError where an option's value does not fit.
template <typename T>
void need(bool fits, const char* option, const char* expected, const T& got) {
  if (!fits) throw UsageError("{}: expected {}, got {}", option, expected, got);
}

class Options {
 public:
  // What an option says about: the result of a run (part of its configuration), or only how and
  // where this process works.
  enum Scope { kResult, kProcess };

  Options(const std::string& command, const std::string& description);
  ~Options();

  // `names` as CLI11 writes them: "--lr", "-b,--batch-size", or "model" for a positional one.
  // T: std::string, double, int64_t or uint64_t.
  template <typename T>
  CLI::Option* add(const std::string& names, T& value, const std::string& help,
                   Scope scope = kResult);
  // Also adds --no-NAME.
  void flag(const std::string& name, bool& value, const std::string& help, Scope scope = kResult);
  // One of a few words.
  void choice(const std::string& names, std::string& value, std::vector<std::string> words,
              const std::string& help, Scope scope = kResult);
  // Lets `--recipe` name a file of settings, and the environment hold some; without it neither is
  // looked at.
  void with_recipes();

  // False when the request was answered already (--help, --print-config). Every mistake is a
  // UsageError that names the option (a FileError for a recipe).
  bool parse(const Arguments& arguments);
  // Whether the option was given on the command line or in a recipe.
  bool given(const std::string& name) const;

  // The resolved configuration: what decides the result, one `name = value` line each.
  std::string toml() const;

 private:
  struct Setting {
    std::string name;  // without dashes
    Scope scope;
    std::function<std::string()> value;  // as TOML
  };

  // Settings as arguments, put behind others.
  void add_environment(Arguments& to);
  void add_recipe(const std::filesystem::path& path, Arguments& to);
  std::vector<std::string> option_names() const;

  std::unique_ptr<CLI::App> app_;  // CLI11 is slow to compile: options.cpp alone sees it
  std::string command_, recipe_;
  bool has_recipes_ = false, print_config_ = false;
  std::vector<Setting> settings_;
  std::map<std::string, std::string> places_;  // option to "file:line" or the variable
};

// What an option asks for beyond its type.
void required(CLI::Option* option);
void between(CLI::Option* option, int64_t low, int64_t high);

}  // namespace facet
