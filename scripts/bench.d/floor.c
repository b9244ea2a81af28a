/* The floor: what any guest on this VMM and kernel must wait for. Prints one line and ends. */
#include <stdio.h>
#include <sys/reboot.h>

int main(void) {
  puts("floor: here");
  fflush(stdout);
  reboot(RB_AUTOBOOT);
  for (;;) ;
}
