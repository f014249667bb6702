#include "apps/options.h"

#include <fmt/ranges.h>
#include <toml++/toml.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <cstdlib>

#include "tensor/text.h"

namespace facet {

namespace fs = std::filesystem;

namespace {

std::string to_toml(const std::string& value) {
  std::string quoted = "\"";
  for (const char c : value) {
    if (c == '"' || c == '\\') quoted += '\\';
    if (c == '\n')
      quoted += "\\n";
    else
      quoted += c;
  }
  return quoted + "\"";
}

std::string to_toml(double value) {
  const std::string text = fmt::format("{}", value);
  return text.find_first_of(".en") == std::string::npos ? text + ".0" : text;
}

template <std::integral T>
std::string to_toml(T value) {
  return fmt::format("{}", value);
}

// apps/recipes/NAME.toml, or the file itself where the name is a path.
fs::path find_recipe(const std::string& name) {
  if (name.find('/') != std::string::npos || name.ends_with(".toml")) {
    if (fs::is_regular_file(name)) return name;
    throw FileError("{}: no such recipe file", name);
  }
  const fs::path folder = FACET_RECIPES;
  const fs::path beside = fs::read_symlink("/proc/self/exe").parent_path() / "recipes";
  std::vector<std::string> names;
  for (const fs::path& candidate : {beside, folder}) {
    if (fs::is_regular_file(candidate / (name + ".toml"))) return candidate / (name + ".toml");
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator(candidate, ignored))
      names.push_back(entry.path().stem().string());
  }
  std::sort(names.begin(), names.end());
  throw UsageError("no recipe '{}': expected a path or one of {}", name, fmt::join(names, ", "));
}

}  // namespace

Options::Options(const std::string& command, const std::string& description)
    : app_(std::make_unique<CLI::App>(description, "facet " + command)), command_(command) {
  app_->option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
}

Options::~Options() = default;

template <typename T>
CLI::Option* Options::add(const std::string& names, T& value, const std::string& help,
                          Scope scope) {
  CLI::Option* option = app_->add_option(names, value, help)->capture_default_str();
  settings_.push_back({option->get_single_name(), scope, [&value] { return to_toml(value); }});
  return option;
}

template CLI::Option* Options::add(const std::string&, std::string&, const std::string&, Scope);
template CLI::Option* Options::add(const std::string&, double&, const std::string&, Scope);
template CLI::Option* Options::add(const std::string&, int64_t&, const std::string&, Scope);
template CLI::Option* Options::add(const std::string&, uint64_t&, const std::string&, Scope);

bool Options::given(const std::string& name) const {
  return app_->count(name) > 0;
}

void Options::flag(const std::string& name, bool& value, const std::string& help, Scope scope) {
  CLI::Option* option = app_->add_flag(name + ",!--no-" + name.substr(2), value, help);
  settings_.push_back({option->get_single_name(), scope, [&value] { return to_toml(value); }});
}

void Options::choice(const std::string& names, std::string& value, std::vector<std::string> words,
                     const std::string& help, Scope scope) {
  add(names, value, fmt::format("{} ({})", help, fmt::join(words, ", ")), scope)
      ->check([words](const std::string& word) {
        if (std::find(words.begin(), words.end(), word) != words.end()) return std::string();
        return fmt::format("expected {}, got '{}'", fmt::join(words, ", "), word);
      });
}

void Options::with_recipes() {
  has_recipes_ = true;
  app_->add_option("--recipe", recipe_, "A file of settings, or the name of one in apps/recipes");
  app_->add_flag("--print-config", print_config_, "Print the resolved configuration and stop");
}

std::string Options::toml() const {
  std::string text;
  for (const Setting& setting : settings_)
    if (setting.scope == kResult) text += fmt::format("{} = {}\n", setting.name, setting.value());
  return text;
}

std::vector<std::string> Options::option_names() const {
  std::vector<std::string> names;
  for (const CLI::Option* option : app_->get_options())
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  return names;
}

void Options::add_recipe(const fs::path& path, Arguments& to) {
  toml::table table;
  try {
    table = toml::parse_file(path.string());
  } catch (const toml::parse_error& e) {
    throw FileError("{}:{}: {}", path.string(), e.source().begin.line, e.description());
  }
  for (const auto& [key, node] : table) {
    const std::string name = "--" + std::string(key.str());
    const auto fail = [&, &value = node](const std::string& what) {
      throw FileError("{}:{}: {}", path.string(), value.source().begin.line, what);
    };
    if (std::ranges::find(settings_, key.str(), &Setting::name) == settings_.end())
      fail(fmt::format("facet {} has no setting '{}'{}", command_, key.str(),
                       did_you_mean(name, option_names())));
    std::string text;
    if (const auto flag = node.value_exact<bool>()) {
      to.push_back(*flag ? name : "--no-" + name.substr(2));
      continue;
    }
    if (const auto word = node.value_exact<std::string>())
      text = *word;
    else if (const auto whole = node.value_exact<int64_t>())
      text = std::to_string(*whole);
    else if (const auto number = node.value_exact<double>())
      text = fmt::format("{}", *number);
    else
      fail(fmt::format("'{}': expected a word, a number or a boolean", key.str()));
    to.push_back(name + "=" + text);
    places_[name] = fmt::format("{}:{}", path.string(), node.source().begin.line);
  }
}

void Options::add_environment(Arguments& to) {
  for (const Setting& setting : settings_) {
    std::string variable = "FACET_";
    for (const char c : setting.name)
      variable += c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
    const char* const value = std::getenv(variable.c_str());
    if (!value) continue;
    // CLI11 reads the words for yes and no after a flag's name, too.
    to.push_back(fmt::format("--{}={}", setting.name, value));
    places_["--" + setting.name] = variable;
  }
}

bool Options::parse(const Arguments& arguments) {
  Arguments all;
  if (has_recipes_) {
    for (size_t i = 0; i < arguments.size(); ++i) {
      const bool joined = arguments[i].starts_with("--recipe=");
      if (!joined && (arguments[i] != "--recipe" || i + 1 == arguments.size())) continue;
      add_recipe(find_recipe(joined ? arguments[i].substr(9) : arguments[i + 1]), all);
    }
    add_environment(all);
  }
  all.insert(all.end(), arguments.begin(), arguments.end());
  std::reverse(all.begin(), all.end());  // as CLI11 wants them
  try {
    app_->parse(all);
  } catch (const CLI::CallForHelp&) {
    fmt::print("{}", app_->help());
    return false;
  } catch (const CLI::ExtrasError&) {
    const std::string word = app_->remaining().front();
    const std::string name = word.substr(0, word.find('='));
    if (name.starts_with("-"))
      throw UsageError("facet {}: unknown option {}{} (facet {} --help lists all)", command_, name,
                       did_you_mean(name, option_names()), command_);
    throw UsageError("facet {}: unexpected argument '{}'", command_, word);
  } catch (const CLI::ParseError& e) {
    std::string what = e.what();
    std::replace(what.begin(), what.end(), '\n', ' ');
    // A value that came from a recipe is shown with its line there, one from the environment with
    // the variable.
    for (const auto& [name, place] : places_)
      if (what.find(name + " ") != std::string::npos ||
          what.find(name + ":") != std::string::npos) {
        const std::string shown = fmt::format("{}: {}", place, what);
        if (place.starts_with("FACET_")) throw UsageError(shown);
        throw FileError(shown);
      }
    throw UsageError("facet {}: {}", command_, what);
  }
  if (print_config_) {
    fmt::print("{}", toml());
    return false;
  }
  return true;
}

void required(CLI::Option* option) {
  option->required();
}

void between(CLI::Option* option, int64_t low, int64_t high) {
  option->check(CLI::Range(low, high));
}

}  // namespace facet
