"""Order of the steps of a cohort, and the queue of those that are ready."""

from __future__ import annotations

from bisect import insort
from typing import Any


def sort_by_image(graph: Any) -> list[Any]:
    """Sort the nodes of a graph such that one image ends before the next begins.

    Nipype's own order is the first step of all images, then the second of all: no result is
    complete before the end, and a GPU waits for all the steps on the CPU before it.

    Parameters
    ----------
    graph : networkx.DiGraph
        Expanded graph of nodes.

    Returns
    -------
    list of nipype.Node
        Each node after those that it depends on; nodes that all images share come first.
    """
    import networkx as nx

    return list(nx.lexicographical_topological_sort(graph, key=_workflow_of))


def _workflow_of(node: Any) -> str:
    """Return the name of the image's workflow that contains a node; empty if there is none."""
    within = node.fullname.split('.')[1:-1]
    return within[0] if within else ''


class NodeQueue:
    """Nodes of a graph in their order, and those whose predecessors have finished.

    A node is given by its index in `nodes`.

    Parameters
    ----------
    graph : networkx.DiGraph
        Expanded graph of nodes.

    Attributes
    ----------
    nodes : list of nipype.Node
        All nodes, sorted by `sort_by_image`.
    ready : list of int
        Nodes that can start, in order.
    """

    def __init__(self, graph: Any) -> None:
        self.nodes = sort_by_image(graph)
        indices = {node: index for index, node in enumerate(self.nodes)}
        self._successors = [[indices[after] for after in graph.successors(n)] for n in self.nodes]
        self._unfinished = [graph.in_degree(node) for node in self.nodes]
        self.ready = [index for index, count in enumerate(self._unfinished) if not count]

    def start(self, index: int) -> None:
        """Remove a node from those that can start."""
        self.ready.remove(index)

    def finish(self, index: int) -> None:
        """Mark a node that was started as finished; others may become ready.

        A node that failed is never finished, so that those that depend on it never start.
        """
        for after in self._successors[index]:
            self._unfinished[after] -= 1
            if not self._unfinished[after]:
                insort(self.ready, after)
