// A client's connection: one exchange after the other, until either side has had enough.
#ifndef GATEWAY_DATAPLANE_SERVER_CONNECTION_H_
#define GATEWAY_DATAPLANE_SERVER_CONNECTION_H_

#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdint>
#include <memory>
#include <string>

#include "dataplane/http/connection.h"
#include "dataplane/net/task.h"
#include "dataplane/server/connection_counts.h"
#include "dataplane/server/listener.h"
#include "dataplane/server/tls_facts.h"

namespace gateway::dataplane {

class Worker;
namespace http {
class DownstreamStream;
}
namespace http2 {
class ServerSession;
}

// What one connection too many is told.
inline constexpr std::string_view kTooManyConnections =
    "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 83\r\n"
    "X-Gateway-Reason: overloaded\r\nConnection: close\r\n\r\n"
    R"({"error": "Service temporarily unavailable", "code": 503, "reason": "overloaded"})"
    "\r\n";

// Lives on one worker, from accept to close; owns itself. Between two requests it holds no buffer.
class ClientConnection : private http::Connection {
 public:
  // How much of what a client still sends is read and thrown away, and for how long, before a connection that ended
  // early is closed: closed at once, the client's unread bytes would reset it, and the answer could be lost (RFC 9112,
  // section 9.6).
  static constexpr size_t kLingerBytesMax = 4 << 20;
  static constexpr std::chrono::milliseconds kLingerTime{2000};
  // How long a connection too many of its address waits for others of it to turn out to be silent.
  static constexpr int kRoomTries = 8;
  static constexpr std::chrono::milliseconds kRoomTryInterval{5};

  // Takes over an accepted, non-blocking descriptor.
  static void Start(Worker* worker, int fd, const sockaddr_storage& address, const ListenerOptions& options);
  ~ClientConnection();

  // The header of a request has arrived.
  void Asked() {
    if (!asked_) BecomeAsked();
  }
  bool asked() const { return asked_; }
  uint64_t id() const { return silent_.id; }
  // Since when it waits between two requests; TimePoint::max(): it does not.
  TimePoint idle_since() const;

  // Whether it is between two requests; asks the kernel.
  bool IsIdle();
  // Ends it if it is. False: it is not.
  bool CloseIfIdle();
  // HTTP/2: takes no further requests, and ends after those in flight. (HTTP/1 ends with the next response.)
  void Drain();
  // Ends one that has to give way: in a handshake, or without a request.
  void Cancel() { socket.Cancel(); }
  // It was taken from the silent ones: ends it, or puts it back if something has arrived since.
  void GiveWay();
  const std::string& peer_ip() const { return info.peer_ip; }
  // Ends the waits for services: of requests in flight nobody waits for a response any more.
  void AbandonWaits();

  ClientConnection* previous = nullptr;  // the worker's list
  ClientConnection* next = nullptr;

 private:
  ClientConnection(Worker* worker, const sockaddr_storage& address, const in6_addr& peer_address);
  static Detached Run(std::unique_ptr<ClientConnection> self, ListenerOptions options);
  void BecomeAsked();
  // In between it gives way to new ones.
  void ListAsSilent();
  void UnlistAsSilent();
  Task<bool> CountAddress();                         // false: this address has too many already
  Task<bool> ReadProxyHeader(ProxyHeaderMode mode);  // false: the connection is of no use
  Task<bool> AcceptTls(int listener);                // false: the handshake failed
  Task<bool> SpeaksHttp2(const ListenerOptions& options);
  Task<void> ServeHttp2();
  static Task<void> ServeHttp2Stream(void* connection, http::DownstreamStream& stream);
  Task<void> RefuseAndLinger(std::string_view answer);
  Task<void> Serve();
  Task<bool> ServeExchange();  // false: there was no request
  Task<void> Linger();

  Worker* const worker_;
  std::unique_ptr<const TlsFacts> tls_;  // null: cleartext
  SilentConnections::Entry silent_;
  bool asked_ = false;
  bool idle_ = false;
  TimePoint idle_since_{};
  bool served_ = false;
  http2::ServerSession* http2_ = nullptr;  // null: HTTP/1
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_SERVER_CONNECTION_H_
