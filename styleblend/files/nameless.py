"""Names of pictures that say nothing of what they show: a camera's, a number, a hash, a date, "untitled"."""
from __future__ import annotations

import re

# of cameras, phones, scanners, browsers and programs, in some languages
EMPTY = set("""
    img image images imag imagen imagem immagine pic pics picture pictures photo photos foto fotos bild bilder
    dsc dscn dscf dscni dcim mvimg pxl gopr dji cimg sdc hpim pict kodak vlcsnap fb received whatsapp snapchat
    wechat instagram screenshot screenshots shot capture ecran snip snapshot bildschirmfoto captura pantalla
    schermata untitled unnamed unbenannt noname sin titulo título titre sans senza titolo nameless new neu
    nouveau nuevo copy kopie copie copia of at am pm design project datei download downloads unknown temp tmp
    thumb thumbnail scan scanned output comfyui wa hdr edited edit final orig original resized cropped pexels
    unsplash pixabay shutterstock istockphoto gettyimages adobestock pinterest flickr facebook écran
    图片 照片 截图 截屏 屏幕截图 微信图片 微信截图
    未命名 无标题 下载 新建 扫描 图像 副本
    画像 写真 無題 スクリーンショット 이미지 사진 스크린샷 제목없음
    снимок экрана фото изображение безымянный без имени копия
""".split())
# these may be subjects, and are none with a number behind them
NUMBERED = set("""
    a b c d e f g h i j k l m n o p q r s t u v w x y z frame page sample test style art artwork drawing
    illustration sketch painting figure item example asset layer artboard canvas result render out input src
    source data train training class mg vid clip video no nr num number part set icon emoji sticker gen screen
    scanner signal telegram file files sam
""".split())
UUID = re.compile(r"(?<![^\W_])[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.I)
HASH = re.compile(r"[0-9a-f]{8,}", re.I)


def says_nothing(stem: str, style: str = "") -> bool:
    """Whether a picture's name says nothing of what it shows, as the name of the `style` and a number do not."""
    parts = [part for part in re.split(r"[\W_]+", UUID.sub(" ", stem)) if part]
    words = [word for part in parts if not is_random(part) for word in re.findall(r"[^\W\d_]+", part.lower())]
    numbered = bool(re.search(r"\d", stem))
    own = re.findall(r"[^\W\d_]+", style.lower())
    if words and words == own:
        return numbered
    return all(word in EMPTY or numbered and word in NUMBERED for word in words)


def is_random(part: str) -> bool:
    """A hash, or an identifier such as EaXk3JdXYAAb1cD: digits among letters."""
    if HASH.fullmatch(part) and re.search(r"\d", part):
        return True
    changes = len(re.findall(r"(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])", part))
    return len(part) >= 10 and changes >= 3
