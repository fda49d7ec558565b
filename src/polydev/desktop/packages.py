"""What of the distribution a desktop is made of. Pure."""

from collections.abc import Mapping

# Debian's package → a file under /usr by which it is known to be there.
PACKAGES: Mapping[str, str] = {
    "adwaita-icon-theme": "share/icons/Adwaita/index.theme",
    "dbus-daemon": "bin/dbus-daemon",
    "firefox-esr": "bin/firefox-esr",
    "fonts-dejavu-core": "share/fonts/truetype/dejavu/DejaVuSansMono.ttf",
    "fonts-noto-cjk": "share/fonts/opentype/noto/NotoSansCJK-Regular.ttc",
    "tigervnc-standalone-server": "bin/Xtigervnc",
    "wmctrl": "bin/wmctrl",
    "x11-utils": "bin/xprop",
    "x11-xserver-utils": "bin/xsetroot",
    "xdotool": "bin/xdotool",
    "xfce4-panel": "bin/xfce4-panel",
    "xfwm4": "bin/xfwm4",
    "xterm": "bin/xterm",
}
