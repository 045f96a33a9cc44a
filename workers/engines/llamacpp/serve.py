"""llama.cpp's HTTP server in this process; ends at once with SIGTERM."""

import argparse
import os
import signal
import sys
import threading

import xllamacpp


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--parallel", type=int, default=4, help="requests at once")
    parser.add_argument("--ctx", type=int, default=2048, help="tokens a request may hold")
    return parser.parse_args()


def main():
    # The server's own threads do not let Python handle signals in time; the default action does.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    options = arguments()
    params = xllamacpp.CommonParams()
    params.model.path = options.model
    # What clients read in answers, else the file's path. A set: of a bare string it takes the letters.
    params.model_alias = {"smollm2-135m"}
    params.n_parallel = options.parallel
    params.n_ctx = options.parallel * options.ctx
    params.cpuparams.n_threads = options.threads
    params.cpuparams_batch.n_threads = options.threads
    params.hostnames = ["127.0.0.1"]
    params.port = options.port
    params.endpoint_metrics = True
    params.endpoint_slots = True
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        sys.exit(f"llamacpp: no server on port {options.port}, is it taken? {error}")
    print("listening on", server.listening_address, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
