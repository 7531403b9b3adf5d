// gatewayctl: the operators' command line.
#include <pwd.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <optional>
#include <streambuf>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "tools/gatewayctl/cli.h"

namespace {

// Standard output, which remembers why it could not be written: std::cout doesn't.
class StandardOutput : public std::streambuf {
 public:
  StandardOutput() { setp(buffer_, buffer_ + sizeof(buffer_)); }
  int error() const { return error_; }  // errno of the first failed write; 0: none

 private:
  int sync() override {
    for (const char* at = pbase(); at < pptr() && error_ == 0;) {
      const ssize_t written = write(STDOUT_FILENO, at, static_cast<size_t>(pptr() - at));
      if (written > 0) at += written;
      if (written < 0 && errno != EINTR) error_ = errno;
    }
    setp(buffer_, buffer_ + sizeof(buffer_));
    return error_ == 0 ? 0 : -1;
  }

  int overflow(int byte) override {
    if (sync() != 0) return traits_type::eof();
    return traits_type::eq_int_type(byte, traits_type::eof()) ? 0 : sputc(traits_type::to_char_type(byte));
  }

  char buffer_[32 << 10];
  int error_ = 0;
};

std::optional<std::string> Environment(const std::string& name) {
  const char* value = std::getenv(name.c_str());
  return value == nullptr ? std::nullopt : std::optional<std::string>(value);
}

std::string UserAtHost() {
  const passwd* user = getpwuid(geteuid());
  char host[256] = "";
  if (gethostname(host, sizeof(host) - 1) != 0) host[0] = '\0';
  return (user != nullptr ? std::string(user->pw_name) : std::to_string(geteuid())) + "@" + host;
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);  // a closed pipe ends the output, not a change half way through
  StandardOutput output;
  std::ostream out(&output);
  const gateway::ctl::Terminal terminal{.out = &out,
                                        .err = &std::cerr,
                                        .out_is_terminal = isatty(STDOUT_FILENO) == 1,
                                        .in = isatty(STDIN_FILENO) == 1 ? &std::cin : nullptr,
                                        .environment = Environment,
                                        .now = [] { return absl::Now(); },
                                        .actor = UserAtHost()};
  const int code = gateway::ctl::RunCommandLine(std::vector<std::string>(argv + 1, argv + argc), terminal);
  out.flush();
  // A reader that has seen enough (`| head`) is no failure; a full disk is.
  if (output.error() != 0 && output.error() != EPIPE) {
    std::cerr << "gatewayctl: cannot write the output: " << std::strerror(output.error()) << "\n";
    return code == 0 ? 1 : code;
  }
  return code;
}
