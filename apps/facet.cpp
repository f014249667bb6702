// The program: finds the subcommand, and turns exceptions into one line and an exit code.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <new>

#include "apps/command.h"
#include "apps/interrupt.h"
#include "apps/log.h"
#include "apps/machine.h"
#include "tensor/text.h"

namespace {

using namespace facet;

constexpr Command kCommands[] = {
    {"pretrain", run_pretrain, "train a network, without labels or with them"},
    {"inject", run_inject, "inject labels into a pretrained network with a control cycle T"},
    {"finetune", run_finetune, "train a pretrained network on a task"},
    {"probe", run_probe, "accuracy of a linear classifier on frozen features"},
    {"knn", run_knn, "accuracy of the nearest neighbours in feature space"},
    {"diversity", run_diversity, "feature diversity of a network's weights"},
    {"inspect", run_inspect, "what a file of weights holds, and whose layout it has"},
    {"convert", run_convert, "a file of weights as safetensors, .pth or .npz"},
    {"features", run_features, "features or logits of a network for given images"},
    {"cka", run_cka, "how alike two representations of the same samples are"},
    {"separation", run_separation, "how far the classes of labelled features lie apart"},
    {"transfer", run_transfer, "transferability of models from a table of accuracies"},
    {"importance", run_importance, "what the factors of a table tell of its target"},
    {"study", run_study, "measure and compare the checkpoints in a folder, with a report"},
    {"doctor", run_doctor, "what is wrong with a run, and what usually helps"},
    {"selftest", run_selftest, "whether this machine computes what the official codes compute"},
    {"dataset", run_dataset, "check, describe, show or cache a dataset"},
    {"reproduce", run_reproduce,
     "the whole study on Fashion-MNIST, with a report; or the paper's tables"},
    {"bench", run_bench, "speed of training and of the metrics, also beside their peers"},
};

void print_usage() {
  fmt::print("usage: facet COMMAND [options]      facet COMMAND --help\n\n");
  for (const Command& command : kCommands) fmt::print("  {:<10} {}\n", command.name, command.help);
  fmt::print("\n  --version  print the version and how it was built\n");
}

void run(const Arguments& arguments) {
  const std::string& word = arguments.empty() ? "--help" : arguments[0];
  if (word == "--help" || word == "-h" || word == "help") return print_usage();
  if (word == "--version") return fmt::print("{}\n", version_line());
  std::vector<std::string> names = {"--help", "--version"};
  for (const Command& command : kCommands) {
    if (word == command.name) return command.run(Arguments(arguments.begin() + 1, arguments.end()));
    names.push_back(command.name);
  }
  throw UsageError("unknown {} '{}'{} (facet --help lists all)",
                   word.starts_with("-") ? "option" : "command", word, did_you_mean(word, names));
}

int guarded(const Arguments& arguments) {
  try {
    run(arguments);
    return 0;
  } catch (const Error& e) {
    log_line((e.exit_code() == ExitCode::interrupted ? "" : "error: ") + std::string(e.what()));
    return static_cast<int>(e.exit_code());
  } catch (const std::bad_alloc&) {
    log_line("error: out of memory; try a smaller --batch-size");
    return static_cast<int>(ExitCode::out_of_memory);
  } catch (const std::exception& e) {
    log_line("error: " + std::string(e.what()));
    return static_cast<int>(ExitCode::failure);
  }
}

// OpenMP's threads spin at every barrier while they wait for each other. With other work on the
// machine that costs ten times the time of sleeping soon; the setting is read before main() runs,
// so the program starts itself once more with it, unless the user has chosen.
void restart_with_short_spinning(char** argv) {
  if (std::getenv("GOMP_SPINCOUNT") || std::getenv("OMP_WAIT_POLICY")) return;
  ::setenv("GOMP_SPINCOUNT", "5000", 1);
  ::execv("/proc/self/exe", argv);  // returns only on failure: then go on as things are
}

}  // namespace

int main(int argc, char** argv) {
  restart_with_short_spinning(argv);
  install_interrupt_handlers();
  const int code = guarded(Arguments(argv + 1, argv + argc));
  return std::fflush(stdout) == 0 || code != 0 ? code : 1;
}
