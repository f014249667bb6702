#include "apps/command.h"

#include <fmt/ranges.h>

#include "tensor/text.h"

namespace facet {

void run_one_of(const std::string& program, const std::string& operands,
                const std::vector<Command>& commands, const Arguments& arguments) {
  const std::string word = arguments.empty() ? "--help" : arguments[0];
  for (const Command& command : commands)
    if (word == command.name) return command.run(Arguments(arguments.begin() + 1, arguments.end()));
  const std::vector<std::string> names = names_of(commands);
  if (word != "--help" && word != "-h")
    throw UsageError("facet {}: unknown command '{}': expected one of {}{}", program, word,
                     fmt::join(names, ", "), did_you_mean(word, names));
  fmt::print("usage: facet {} {} {}\n\n", program, fmt::join(names, "|"), operands);
  for (const Command& command : commands) fmt::print("  {:<10} {}\n", command.name, command.help);
}

}  // namespace facet
