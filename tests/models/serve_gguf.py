"""A llama.cpp server of its own process, for tests that kill it: python serve_gguf.py MODEL PORT SLOTS."""

import sys
import threading

import xllamacpp

path, port, slots = sys.argv[1:]
settings = xllamacpp.CommonParams()
settings.model.path = path
settings.hostnames = ["127.0.0.1"]
settings.port = int(port)
settings.n_parallel = int(slots)
settings.n_ctx = 1024 * int(slots)
settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
settings.verbosity = 1
settings.warmup = False
# How many tokens it has read and written stands at /metrics.
settings.endpoint_metrics = True
# A guard's chat ends with the reply that it is to judge, and not to go on from.
settings.prefill_assistant = False
# Half-precision attention alone costs 1e-2 nats against transformers.
settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
server = xllamacpp.Server(settings)
print(server.listening_address, flush=True)
threading.Event().wait()
