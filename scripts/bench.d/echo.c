/* A bare echo on a vsock port, one connection at a time: what the agent's ping is held against. */
#include <sys/socket.h>
#include <linux/vm_sockets.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv) {
  struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = 7000};
  char buffer[4096];
  ssize_t count;
  int listener = socket(AF_VSOCK, SOCK_STREAM, 0);
  if (argc > 1) address.svm_port = atoi(argv[1]);
  if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 8)) return 1;
  for (;;) {
    int stream = accept(listener, 0, 0);
    while ((count = read(stream, buffer, sizeof buffer)) > 0)
      if (write(stream, buffer, count) != count) break;
    close(stream);
  }
}
