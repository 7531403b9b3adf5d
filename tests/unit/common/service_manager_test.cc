#include "common/base/service_manager.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string>

namespace gateway {
namespace {

// A service manager's socket at `path` ('@': in the abstract namespace).
class Manager {
 public:
  explicit Manager(const std::string& path) : fd_(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.data(), path.size());
    if (path[0] == '@') address.sun_path[0] = '\0';
    const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size());
    EXPECT_EQ(bind(fd_, reinterpret_cast<sockaddr*>(&address), length), 0) << std::strerror(errno);
    setenv("NOTIFY_SOCKET", path.c_str(), 1);
  }
  ~Manager() {
    close(fd_);
    unsetenv("NOTIFY_SOCKET");
  }
  std::string Next() {
    pollfd ready{fd_, POLLIN, 0};
    if (poll(&ready, 1, 5000) != 1) return "<nothing>";
    char text[64];
    const ssize_t length = recv(fd_, text, sizeof text, 0);
    return std::string(text, static_cast<size_t>(length > 0 ? length : 0));
  }

 private:
  int fd_;
};

TEST(ServiceManager, IsToldThroughASocketByPathOrInTheAbstractNamespace) {
  char directory[] = "/tmp/gateway-notify-XXXXXX";
  ASSERT_NE(mkdtemp(directory), nullptr);
  const std::string path = std::string(directory) + "/notify";
  for (const std::string& name : {path, "@gateway-notify-" + std::to_string(getpid())}) {
    Manager manager(name);
    EXPECT_TRUE(NotifyServiceManager("READY=1")) << name;
    EXPECT_EQ(manager.Next(), "READY=1");
    EXPECT_TRUE(NotifyServiceManager("STOPPING=1"));
    EXPECT_EQ(manager.Next(), "STOPPING=1");
  }
  unlink(path.c_str());
  rmdir(directory);
}

TEST(ServiceManager, IsLeftAloneWhereThereIsNone) {
  unsetenv("NOTIFY_SOCKET");
  EXPECT_FALSE(NotifyServiceManager("READY=1"));
  for (const std::string& name : {std::string("relative"), std::string("/nowhere/notify"), std::string(200, '/')}) {
    setenv("NOTIFY_SOCKET", name.c_str(), 1);
    EXPECT_FALSE(NotifyServiceManager("READY=1")) << name;
  }
  unsetenv("NOTIFY_SOCKET");
}

}  // namespace
}  // namespace gateway
