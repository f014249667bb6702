// SIGINT, SIGTERM, SIGUSR1 and SIGHUP ask for a stop at the next safe point; a second SIGINT ends
// the process at once.
#pragma once

#include <string>

namespace facet {

void install_interrupt_handlers();
bool interrupted();
// Until Slurm ends the job of this process (SLURM_JOB_END_TIME, seconds since 1970), less what the
// end of the process takes: infinity outside of one.
double job_seconds_left();
// Says why and sleeps until SIGKILL, or a second SIGINT.
[[noreturn]] void wait_to_be_killed(const std::string& why);
// Throws an Error with ExitCode::interrupted when a stop has been asked for or the job ends.
void stop_if_interrupted(const std::string& where);

}  // namespace facet
