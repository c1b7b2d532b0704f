"""In what order the steps of a cohort are done, and which of them are ready."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def image_by_image(graph: Any) -> list[Any]:
    """Sort the nodes of a graph so that one image is done before the next is begun.

    Nipype does the first step of all images, then the second of all: nobody sees a result before
    the end, and a GPU waits until all that the CPU does before it is done.

    Parameters
    ----------
    graph : networkx.DiGraph
        Expanded graph of nodes.

    Returns
    -------
    list
        Each node after those that it depends on; what all images share comes first.

    """
    import networkx as nx

    return list(nx.lexicographical_topological_sort(graph, key=_workflow_of))


def _workflow_of(node: Any) -> str:
    """Name of the workflow, within the one for all, that a node is in; empty if in none."""
    within = node.fullname.split('.')[1:-1]
    return within[0] if within else ''


class Waiting:
    """How many steps each step still waits for.

    Nipype keeps a matrix, all nodes by all nodes, sums it up many times a second and searches it
    whenever a node ends: with hundreds of images that takes longer than the nodes.

    Parameters
    ----------
    graph : networkx.DiGraph
    nodes : list
        All of its nodes.

    """

    def __init__(self, graph: Any, nodes: list[Any]) -> None:
        places = {node: place for place, node in enumerate(nodes)}
        self._next = [[places[after] for after in graph.successors(node)] for node in nodes]
        self._counts = np.array([[graph.in_degree(node) for node in nodes]])

    def sum(self, axis: int) -> NDArray[np.integer]:
        """Give the counts, shape (1, nodes), where Nipype sums up the columns of its matrix."""
        assert axis == 0
        return self._counts

    def end(self, place: int) -> None:
        """Take note that a node has ended."""
        for after in self._next[place]:
            self._counts[0, after] -= 1
