#include "apps/interrupt.h"

#include <unistd.h>

#include <cmath>
#include <csignal>
#include <cstdlib>
#include <ctime>
#include <mutex>

#include "apps/log.h"
#include "tensor/check.h"

namespace facet {
namespace {

volatile std::sig_atomic_t stop_requested = 0;

void on_signal(int signal) {
  if (signal == SIGINT && stop_requested) ::_exit(130);
  stop_requested = 1;
}

}  // namespace

void install_interrupt_handlers() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1}) ::sigaction(signal, &action, nullptr);
  // Under nohup SIGHUP is ignored already, and stays so.
  struct sigaction before {};
  ::sigaction(SIGHUP, nullptr, &before);
  if (before.sa_handler != SIG_IGN) ::sigaction(SIGHUP, &action, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);  // a file as large as allowed is a write that fails
}

bool interrupted() {
  return stop_requested != 0;
}

double job_seconds_left() {
  constexpr double kSecondsToLeave = 5.0;
  const char* const text = std::getenv("SLURM_JOB_END_TIME");
  if (!text) return INFINITY;
  char* rest = nullptr;
  const double end = std::strtod(text, &rest);
  if (*text != '\0' && *rest == '\0' && std::isfinite(end))
    return end - static_cast<double>(std::time(nullptr)) - kSecondsToLeave;
  static std::once_flag told;
  std::call_once(told, [&] {
    log_info("warning: SLURM_JOB_END_TIME: expected seconds since 1970, got '{}': no time limit",
             text);
  });
  return INFINITY;
}

void wait_to_be_killed(const std::string& why) {
  log_info("{}; waiting to be killed", why);
  for (;;) ::pause();
}

void stop_if_interrupted(const std::string& where) {
  const bool ends = job_seconds_left() < 0.0;
  if (ends || interrupted())
    throw Error(where + (ends ? ", at the end of the job (SLURM_JOB_END_TIME)" : "") +
                    "; run the same command again to continue",
                ExitCode::interrupted);
}

}  // namespace facet
