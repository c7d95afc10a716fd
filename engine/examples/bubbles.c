/* SPDX-License-Identifier: Apache-2.0 */
/* bubbles.c - a home-made pipeline of two stages that announces its bubbles.
 *
 *	cc -o bubbles bubbles.c -lpipefill
 *	srun --pipefill -n2 sh -c './bubbles $SLURM_PROCID /tmp/socket 100'
 *
 * Rank 0 runs a forward, sends its activation and waits for the gradient; rank
 * 1 waits for the activation. What they wait is announced, and nothing else.
 */
#include <pipefill.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define VALUES 65536

static float values[VALUES];

static void compute(int rounds)
{
	int i;

	while (rounds--)
		for (i = 0; i < VALUES; i++)
			values[i] = 3.7f * values[i] * (1 - values[i]);
}

static int whole(int receive, int link)
{
	char *at = (char *) values, *end = at + sizeof(values);

	while (at < end) {
		size_t left = (size_t) (end - at);
		ssize_t n =
			receive ? read(link, at, left) : write(link, at, left);

		if (n <= 0) {
			perror("bubbles: link");
			return -1;
		}
		at += n;
	}
	return 0;
}

/* Rank 1 listens, rank 0 comes. */
static int meet(int rank, const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int tries, link = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	if (rank) {
		if (bind(link, (struct sockaddr *) &address, sizeof(address)) ||
		    listen(link, 1))
			return -1;
		return accept(link, NULL, NULL);
	}
	for (tries = 0; tries < 1000; tries++) {
		struct timespec pause = { 0, 10000000 };

		if (!connect(link, (struct sockaddr *) &address,
			     sizeof(address)))
			return link;
		nanosleep(&pause, NULL);
	}
	return -1;
}

static int iterate(struct pf_main *bubbles, int rank, int link)
{
	if (rank == 0) {
		compute(50); /* forward */
		if (whole(0, link))
			return -1;
		pf_bubble_begin(bubbles, PF_FWD_BWD, 0);
		if (whole(1, link))
			return -1;
		pf_bubble_end(bubbles);
		compute(100); /* backward */
	} else {
		/* What is left of the flush before it, too. */
		pf_bubble_begin(bubbles, PF_FILL_DRAIN, 0);
		if (whole(1, link))
			return -1;
		pf_bubble_end(bubbles);
		compute(150); /* forward and backward */
		if (whole(0, link))
			return -1;
	}
	pf_iteration(bubbles); /* after the optimizer step */
	return 0;
}

int main(int argc, char **argv)
{
	int rank = argc == 4 ? atoi(argv[1]) : -1;
	int iterations = argc == 4 ? atoi(argv[3]) : 0, link, status = 0;
	struct pf_main *bubbles;

	if (rank < 0 || rank > 1 || iterations < 1) {
		fprintf(stderr, "usage: bubbles RANK SOCKET ITERATIONS\n");
		return 2;
	}
	for (link = 0; link < VALUES; link++)
		values[link] = 0.1f + 0.8f * (float) link / VALUES;
	link = meet(rank, argv[2]);
	if (link < 0) {
		perror("bubbles: meet");
		return 1;
	}
	bubbles = pf_open(NULL); /* NULL outside a main job: nothing happens */
	if (!bubbles)
		fprintf(stderr, "bubbles: not announced: %s\n", pf_strerror());
	while (!status && iterations--)
		status = iterate(bubbles, rank, link) ? 1 : 0;
	pf_close(bubbles);
	if (!status)
		printf("%.6f\n", (double) values[VALUES / 2]);
	return status;
}
