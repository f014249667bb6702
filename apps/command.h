// The subcommands, one file each in apps/commands/. Each returns when it is done; every failure is
// an exception that carries the exit code.
#pragma once

#include "apps/options.h"

namespace facet {

using RunCommand = void(const Arguments& arguments);
RunCommand run_pretrain, run_inject, run_finetune, run_probe, run_knn, run_diversity, run_inspect,
    run_convert, run_features, run_cka, run_separation, run_transfer, run_importance, run_study,
    run_reproduce, run_doctor, run_selftest, run_dataset, run_bench;
RunCommand run_paper;  // facet reproduce paper
// facet bench's own, each in a file bench_*.cpp.
RunCommand bench_data, bench_ops, bench_peers, bench_probe;
double median(std::vector<double> values);

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
  RunCommand* run;
  const char* help;
};
// The command of a program that the first argument names; without one, or for --help, what there
// is.
void run_one_of(const std::string& program, const std::string& operands,
                const std::vector<Command>& commands, const Arguments& arguments);

}  // namespace facet
