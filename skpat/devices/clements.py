"""The rectangular mesh of Mach-Zehnder interferometers: where they stand, and the phases that make a given unitary."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["MeshPhases", "decompose", "mesh_columns", "unitary"]


class MeshPhases(NamedTuple):
    """Phases of a mesh, in rad.

    Attributes
    ----------
    theta, phi : ndarray of shape (n_ports * (n_ports - 1) / 2,)
        Inner and outer phase of each interferometer, column by column and from the top.
    output : ndarray of shape (n_ports,)
        Phases behind the mesh, which no photodiode sees.
    """

    theta: np.ndarray
    phi: np.ndarray
    output: np.ndarray


def mesh_columns(n_ports: int) -> list[np.ndarray]:
    """The upper port of each interferometer, from the top, for each of the ``n_ports`` columns.

    Examples
    --------
    >>> from skpat.devices.clements import mesh_columns
    >>> mesh_columns(4)
    [array([0, 2]), array([1]), array([0, 2]), array([1])]
    """
    return [np.arange(column % 2, n_ports - 1, 2) for column in range(n_ports)]


def unitary(theta: np.ndarray, phi: np.ndarray, output: np.ndarray | None = None) -> np.ndarray:
    r"""The matrix of a perfect mesh.

    An interferometer is two even splitters :math:`B`, an inner phase between them and an outer one before them, both of
    the upper port,

    .. math::

        T = B P(\theta) B P(\phi) = i e^{i \theta / 2} \begin{pmatrix} e^{i \phi} \sin(\theta / 2) & \cos(\theta / 2) \\
            e^{i \phi} \cos(\theta / 2) & -\sin(\theta / 2) \end{pmatrix}.

    Parameters
    ----------
    theta, phi : array-like of shape (n_ports * (n_ports - 1) / 2,)
        In rad, in the order of :class:`MeshPhases`.
    output : array-like of shape (n_ports,), default=None
        In rad. None: zeros.

    Returns
    -------
    complex ndarray of shape (n_ports, n_ports)

    Raises
    ------
    ValueError
        If the numbers of phases do not fit a mesh.

    Examples
    --------
    >>> from skpat.devices.clements import unitary
    >>> abs(unitary([0.0], [0.0])).round(3)  # theta = 0: the light crosses over
    array([[0., 1.],
           [1., 0.]])
    """
    theta, phi = np.asarray(theta, dtype=np.float64), np.asarray(phi, dtype=np.float64)
    n_ports = round((1 + np.sqrt(1 + 8 * theta.size)) / 2)
    if theta.ndim != 1 or theta.shape != phi.shape or n_ports * (n_ports - 1) != 2 * theta.size or not theta.size:
        raise ValueError(
            "'theta' and 'phi' of a mesh must both have shape (n_ports * (n_ports - 1) / 2,). "
            f"Got {theta.shape} and {phi.shape}. Four ports have six of each."
        )
    matrix = np.eye(n_ports, dtype=complex)
    for number, port in enumerate(np.concatenate(mesh_columns(n_ports))):
        matrix[port : port + 2] = _interferometer(theta[number], phi[number]) @ matrix[port : port + 2]
    if output is None:
        return matrix
    if np.shape(output) != (n_ports,):
        raise ValueError(f"'output' of a mesh must have shape (n_ports,) = ({n_ports},). Got {np.shape(output)}.")
    return np.exp(1j * np.asarray(output))[:, None] * matrix


def decompose(matrix: np.ndarray) -> MeshPhases:
    """The phases with which a mesh makes a unitary matrix: the algorithm of Clements et al.

    Parameters
    ----------
    matrix : complex array-like of shape (n_ports, n_ports)
        Unitary, with at least two ports.

    Returns
    -------
    MeshPhases
        In [0, 2 pi]; theta in [0, pi]. ``unitary(*decompose(matrix))`` is the matrix again.

    Raises
    ------
    ValueError
        If the matrix is not unitary.

    References
    ----------
    Clements, Humphreys, Metcalf, Kolthammer, Walmsley, Optica 3, 1460 (2016), doi:10.1364/OPTICA.3.001460.

    Examples
    --------
    >>> import numpy as np
    >>> from skpat.devices.clements import decompose, unitary
    >>> fourier = np.fft.fft(np.eye(5), norm="ortho")
    >>> bool(np.allclose(unitary(*decompose(fourier)), fourier))
    True
    """
    left_over = np.array(matrix, dtype=complex)
    n_ports = len(left_over) if left_over.ndim else 0
    if left_over.shape != (n_ports, n_ports) or n_ports < 2:
        raise ValueError(f"'matrix' of decompose must be square, with at least two ports. Got shape {left_over.shape}.")
    deviation = np.abs(left_over @ left_over.conj().T - np.eye(n_ports)).max()
    if not deviation < 1e-8:
        raise ValueError(
            f"'matrix' of decompose must be unitary. Got one with |U U* - 1| up to {deviation:.2g}. "
            "A mesh without loss makes only unitary matrices; take the unitary parts of a singular value decomposition."
        )
    before: list[tuple[int, float, float]] = []  # (port, theta, phi) in the order in which light meets them
    behind: list[tuple[int, float, float]] = []
    for diagonal in range(1, n_ports):  # null the entries below the diagonal, zigzag from the lower left corner
        for step in range(diagonal):
            if diagonal % 2:  # U T^-1 nulls the left of two columns
                row, port = n_ports - 1 - step, diagonal - 1 - step
                here, other = left_over[row, port], left_over[row, port + 1]
                theta, phi = 2 * np.arctan2(abs(other), abs(here)), np.angle(-here * other.conj())
                columns = slice(port, port + 2)
                left_over[:, columns] = left_over[:, columns] @ _interferometer(theta, phi).conj().T
                before.append((port, theta, phi))
            else:  # T U nulls the lower of two rows
                port, column = n_ports - 1 - diagonal + step, step
                other, here = left_over[port, column], left_over[port + 1, column]
                theta, phi = 2 * np.arctan2(abs(other), abs(here)), np.angle(here * other.conj())
                rows = slice(port, port + 2)
                left_over[rows] = _interferometer(theta, phi) @ left_over[rows]
                behind.append((port, theta, phi))
    output = np.diag(left_over).copy()
    for port, theta, phi in reversed(behind):  # T^-1 D = D' T': bring the diagonal to the very end
        upper, lower = output[port], output[port + 1]
        before.append((port, theta, np.angle(upper * lower.conj())))
        output[port : port + 2] = -np.exp(-1j * theta) * lower * np.array([np.exp(-1j * phi), 1])
    return _in_order(before, np.angle(output))


def _in_order(met: list[tuple[int, float, float]], output: np.ndarray) -> MeshPhases:
    """Put interferometers, in the order in which light meets them, into the columns of the mesh."""
    n_ports = len(output)
    place = {
        (column, int(port)): number
        for number, (column, port) in enumerate(
            (column, port) for column, ports in enumerate(mesh_columns(n_ports)) for port in ports
        )
    }
    theta, phi = np.empty((2, len(met)))
    reached = np.zeros(n_ports, dtype=int)  # the first column that is still free at each port
    for port, inner, outer in met:
        column = reached[port : port + 2].max()
        theta[place[column, port]], phi[place[column, port]] = inner, outer
        reached[port : port + 2] = column + 1
    return MeshPhases(*(np.mod(phases, 2 * np.pi) for phases in (theta, phi, output)))


def _interferometer(theta: float, phi: float) -> np.ndarray:
    sine, cosine, turn = np.sin(theta / 2), np.cos(theta / 2), np.exp(1j * phi)
    return 1j * np.exp(0.5j * theta) * np.array([[turn * sine, cosine], [turn * cosine, -sine]])
