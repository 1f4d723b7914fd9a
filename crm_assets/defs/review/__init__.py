"""The review stage: what people decided on a run, which of it holds, and what came back of their workbooks."""
