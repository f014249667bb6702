// The subcommands, one file each in apps/commands/. Each returns when it is done; every failure is
// an exception that carries the exit code.
#pragma once

#include "apps/options.h"

namespace facet {

void run_pretrain(const Arguments& arguments);
void run_inject(const Arguments& arguments);
void run_finetune(const Arguments& arguments);
void run_probe(const Arguments& arguments);
void run_knn(const Arguments& arguments);
void run_diversity(const Arguments& arguments);
void run_inspect(const Arguments& arguments);
void run_convert(const Arguments& arguments);
void run_features(const Arguments& arguments);
void run_cka(const Arguments& arguments);
void run_separation(const Arguments& arguments);
void run_transfer(const Arguments& arguments);
void run_importance(const Arguments& arguments);
void run_study(const Arguments& arguments);
void run_reproduce(const Arguments& arguments);
void run_doctor(const Arguments& arguments);
void run_selftest(const Arguments& arguments);
void run_dataset(const Arguments& arguments);
void run_bench(const Arguments& arguments);

// Runs `work` on what a file held: what is wrong with that is said with the file's name.
template <typename Work>
auto about(const std::string& file, const Work& work) {
  try {
    return work();
  } catch (const DeviceError&) {
    throw;
  } catch (const NonFiniteError& e) {
    throw NonFiniteError("{}: {}", file, e.what());
  } catch (const Error& e) {
    if (e.exit_code() != ExitCode::failure) throw;
    throw FileError("{}: {}", file, e.what());
  }
}

struct Command {
  const char* name;
  void (*run)(const Arguments&);
  const char* help;
};
// The command of a program that the first argument names; without one, or for --help, what there
// is.
void run_one_of(const std::string& program, const std::string& operands,
                const std::vector<Command>& commands, const Arguments& arguments);

}  // namespace facet
