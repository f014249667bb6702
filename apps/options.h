// The options of one subcommand: defaults, overridden by a recipe (TOML), overridden by environment
// variables (--batch-size is FACET_BATCH_SIZE), overridden by the command line. Names are timm's
// where timm has one.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "tensor/check.h"

namespace facet {

using Arguments = std::vector<std::string>;

class Options {
 public:
  // What an option says about: the result of a run (part of its configuration), or only how and
  // where this process works.
  enum Scope { kResult, kProcess };

  Options(const std::string& command, const std::string& description);

  // `names` as CLI11 writes them: "--lr", "-b,--batch-size", or "model" for a positional one.
  template <typename T>
  CLI::Option* add(const std::string& names, T& value, const std::string& help,
                   Scope scope = kResult) {
    CLI::Option* option = app_.add_option(names, value, help)->capture_default_str();
    remember(option, scope, [&value] { return to_toml(value); });
    return option;
  }
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
  bool given(const std::string& name) const { return app_.count(name) > 0; }

  // The resolved configuration: what decides the result, one `name = value` line each.
  std::string toml() const;

 private:
  struct Setting {
    std::string name;  // without dashes
    Scope scope;
    std::function<std::string()> value;  // as TOML
  };

  static std::string to_toml(const std::string& value);
  static std::string to_toml(double value);
  static std::string to_toml(int64_t value) { return std::to_string(value); }
  static std::string to_toml(uint64_t value) { return std::to_string(value); }
  static std::string to_toml(bool value) { return value ? "true" : "false"; }
  void remember(CLI::Option* option, Scope scope, std::function<std::string()> value);
  Arguments environment_arguments();
  Arguments recipe_arguments(const std::filesystem::path& path);
  std::vector<std::string> option_names() const;

  CLI::App app_;
  std::string command_, recipe_;
  bool has_recipes_ = false, print_config_ = false;
  std::vector<Setting> settings_;
  std::map<std::string, std::string> places_;  // option to "file:line" or the variable
};

// apps/recipes/NAME.toml, or the file itself where the name is a path.
std::filesystem::path find_recipe(const std::string& name);

}  // namespace facet
